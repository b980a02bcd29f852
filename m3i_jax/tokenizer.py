"""Trains a tokenizer on captions, and shows what one makes of them.

  python -m m3i_jax.tokenizer train DATA --out=captions.model
  python -m m3i_jax.tokenizer inspect captions.model DATA --page=lengths.html
  python -m m3i_jax.tokenizer inspect vocab.txt DATA
  python -m m3i_jax.tokenizer inspect DATA

DATA is what config.data.source may be (a directory of m3i_jax.prepare, emoji,
tfds:NAME, synthetic) or a text file with a caption a line. A tokenizer is a
SentencePiece model, or the vocab.txt of a BERT; without one, `inspect` shows
the one that a run would train. --config.data.tokenizer=FILE gives it to a run.

--page=FILE.html, or .png, is the same to look at. The last line is JSON. Exit
codes: 0, 2 a mistake that the printed line explains.
"""

import json
import os
import sys
from pathlib import Path

from absl import flags

from m3i_jax import command, files
from m3i_jax.data import describe, sources, texts
from m3i_jax.data.lengths import examples, measure
from m3i_jax.data.tokenizer import open_tokenizer, train_tokenizer
from m3i_jax.data.vocabulary import Vocabulary
from m3i_jax.errors import UserError

TRAINED, MEASURED = 1_000_000, 20_000  # texts
_USAGE = 'say: train DATA --out=FILE, inspect TOKENIZER DATA, or inspect DATA'


def define() -> None:
  """Makes the flags."""
  flags.DEFINE_string('out', '', 'file of the tokenizer that is trained')
  flags.DEFINE_integer('vocabulary', 8000, 'pieces, at most', lower_bound=1)
  flags.DEFINE_string('split', 'train', 'of DATA')
  flags.DEFINE_string('text', '', 'field of the captions; empty: the usual one')
  flags.DEFINE_string('tags', '', 'field of tags that a run adds to captions')
  flags.DEFINE_integer(
    'max_texts', 0, f'sampled evenly; 0: {TRAINED:,} to train on, '
    f'{MEASURED:,} to measure', lower_bound=0,
  )  # fmt: skip
  flags.DEFINE_list('length', ['16', '32', '64', '77'],
                    'T for which to tell how many texts are cut')  # fmt: skip
  flags.DEFINE_string('page', '', 'FILE.html or FILE.png to write')


def work(*words) -> int:
  """The command; its last argument is the flags."""
  *words, given = words
  lengths = _lengths(given.length)
  if given.page and not given.page.endswith(('.html', '.png')):
    raise UserError(f'--page={given.page}: name a .html or a .png')
  if given.page:
    command.make_room('page', given.page)
  match words:
    case ['train', data]:
      if not given.out:
        raise UserError('--out is missing: name the file to write')
      command.make_room('out', given.out)
      tokenizer = trained(data, given)
      files.write(Path(given.out), tokenizer.model)
      print(given.out)
    case ['inspect', file, data]:
      tokenizer = opened(file)
    case ['inspect', data]:
      tokenizer = trained(data, given)
    case _:
      raise UserError(_USAGE)
  _show(tokenizer, data, lengths, given)
  return 0


def opened(file: str) -> Vocabulary:
  """The tokenizer in a file."""
  try:
    return open_tokenizer(Path(file).read_bytes())
  except OSError as error:
    raise UserError(f'{file}: {error.strerror}') from error
  except UserError as error:
    raise UserError(f'{file}: {error}') from error


def trained(data: str, given: flags.FlagValues) -> Vocabulary:
  """The tokenizer that a run would train on the captions of DATA."""
  most = given.max_texts or TRAINED
  found = lines(data, most) if os.path.isfile(data) else texts.captions(
    source(data, given), most
  )  # fmt: skip
  print(f'training on {len(found):,} texts', file=sys.stderr)
  try:
    return open_tokenizer(train_tokenizer(found, given.vocabulary))
  except UserError as error:
    told = str(error).replace('config.data.vocabulary', '--vocabulary')
    raise UserError(f'{data}: {told}') from error


def source(data: str, given: flags.FlagValues) -> sources.Source:
  """DATA's split, with its captions and its tags."""
  described = describe.describe(data)
  fields = described.fields
  if not (given.text or fields.text):
    raise UserError(
      f'{data} has no captions under a usual name; its fields are '
      f'{", ".join(described.features)}: --text=FIELD, if one has them'
    )
  return sources.open_source(data, given.split, sources.Fields(
    image=fields.image, text=given.text or fields.text,
    tags=given.tags or fields.tags,
  ))  # fmt: skip


def lines(path: str, most: int) -> list[str]:
  """The lines of a text file that are not empty, sampled evenly."""
  from m3i_jax.prepare import tables

  if Path(path).suffix.lower() in tables.SUFFIXES:
    raise UserError(
      f'{path} is a table: python -m m3i_jax.prepare {path} --out=DIR makes a '
      'data set of it, then give DIR'
    )
  try:
    with open(path, encoding='utf-8-sig') as file:
      count = sum(1 for line in file if line.strip())
      file.seek(0)
      full = (line.strip() for line in file if line.strip())
      kept = min(count, most)
      return [
        line for i, line in enumerate(full)
        if (i + 1) * kept // count > i * kept // count
      ]  # fmt: skip
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is no UTF-8 text: give a text file with a caption a line, or '
      'what config.data.source may be'
    ) from error


def _show(tokenizer: Vocabulary, data: str, lengths: list[int], given) -> None:
  from m3i_jax.report import text_page  # Matplotlib takes a second

  most = given.max_texts or MEASURED
  found = lines(data, most) if os.path.isfile(data) else texts.as_they_come(
    source(data, given), most
  )  # fmt: skip
  measured = measure(tokenizer, found)
  chosen = examples(tokenizer, found, measured)
  print(text_page.terminal(measured, tokenizer, lengths, chosen))
  if given.page:
    if given.page.endswith('.png'):
      made = text_page.draw(measured, lengths)
    else:
      made = text_page.page(
        f'Captions of {data}', measured, tokenizer, lengths, chosen
      )
    files.write(Path(given.page), made)
    print(f'\n{given.page}')
  told = {'kind': tokenizer.kind} | measured.summary(lengths)
  print(json.dumps(told))


def _lengths(given: list[str]) -> list[int]:
  try:
    return [int(x) for x in given]
  except ValueError as error:
    raise UserError(f'--length={",".join(given)}: give numbers') from error


if __name__ == '__main__':
  command.run(define, work, required=(), words=range(9))
