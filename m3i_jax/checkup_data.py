"""What the doctor looks at of the data, before an accelerator is used."""

import dataclasses
import functools
import itertools
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping

from etils import epath
from ml_collections import ConfigDict

from m3i_jax import build, dataset, files, weights
from m3i_jax.checkup import Finding
from m3i_jax.data import pictures, places, sources, texts, tokenizer
from m3i_jax.data.vocabulary import Vocabulary
from m3i_jax.errors import UserError

TRIED = 32  # pictures of each split
SHOWN = 8  # on the page, an even number
TRAINED = 5000  # captions and tags, of the tokenizer that stands for a run's
_NAMED = 3  # of what is wrong
_CALLED = {'label': 'label', 'text': 'caption'}
_HELD_OUT = ('test', 'validation')
_READ = 256  # records at a time


@dataclasses.dataclass
class Checkup:
  """The data of a config; each look opens what it needs.

  workdir: of the run, which may have a tokenizer.
  full: read all of every shard.
  sound: no data that were looked at are broken.
  """

  config: ConfigDict
  workdir: pathlib.Path
  full: bool = False
  sound: bool = True

  def looks(self, page: str = '') -> Iterator[tuple[str, Callable]]:
    """(what is looked at, the look), in order; nothing beside broken data.

    page: a file to write pictures to, '' for none.
    """
    try:
      parts = self.parts()
    except UserError:
      parts = {'': ''}  # the look says it again
    for split in parts:
      yield 'data', functools.partial(self._judged, split)
    if not self.sound:
      return
    yield 'splits', self.splits
    if self.config.data.text:
      yield 'text', self.text
    if page:
      yield 'page', functools.partial(self.page, page)

  def _judged(self, split: str) -> Finding:
    sound, self.sound = self.sound, False  # if it raises, too
    found = self.part(split)
    self.sound = sound and found.status != 'fail'
    return found

  def parts(self) -> Mapping[str, str]:
    """The data set of each split that is trained on."""
    data = self.config.data
    mixed = dataset.ingredients(self.config)
    return {
      f'{name}/{one.split or data.split}': one.source
      for name, one in mixed.items()
    } or {data.split: data.source}

  def part(self, split: str) -> Finding:
    """A split of a data set: its files, its counts, some of its records."""
    name = self.parts()[split]
    if broken := damaged(name, self.full):
      return _wrong('', broken, 'prepare it again, or bring them back')
    source = dataset.open_split(self.config, split)
    found = tried(source)
    of = '' if split == self.config.data.split else f'{split} of '
    told = f'{of}{name}' + f' {split}' * (not of)
    told += f': {len(source):,} pictures, {len(source.classes):,} classes'
    have = [
      f'{count} have a {_CALLED[part]}'
      for part, count in found.having.items()
      if getattr(source.fields, part)
    ]
    told += f'; of {found.tried} tried ' if have else f'; {found.tried} tried'
    told += f'{" and ".join(have)}, {found.speed:.0f} a second in one thread'
    if found.bad or not found.tried:
      return _unreadable(told, found)
    doubt = _doubt(split, source, found)
    return Finding('warn' if doubt else 'ok', told, doubt)

  def splits(self) -> Finding:
    """What evaluators and the panel read beside that."""
    dataset.check_splits(self.config, build.evaluators(self.config))
    data = self.config.data
    needed = {self.config.panel.split or data.split}
    for evaluator in build.evaluators(self.config).values():
      needed |= {split for split, _ in evaluator.reads()}
    told = []
    for split in sorted(needed):
      source = dataset.open_split(self.config, split)
      told.append(f'{split} {len(source):,}')
      found = tried(source)
      if found.bad or not found.tried:
        return _unreadable(told[-1], found)
    return Finding('ok', f'for evaluation: {", ".join(told)} pictures')

  def text(self) -> Finding:
    """How many captions are cut."""
    c = self.config.data
    source = dataset.open_split(self.config, c.split)
    words, origin = self.words
    text = texts.Text(words, c.text_length, c.tags_probability, c.max_tags)
    found = texts.lengths(source, text)
    if not found:
      return Finding('fail', 'no captions', 'is config.data.text the field?')
    told = f'{words.kind}, {words.vocab_size:,} pieces, {origin}; '
    cut = sum(size > c.text_length for size in found)
    told += texts.truncation(found, text) or (
      f'none of {len(found):,} captions is longer than '
      f'config.data.text_length={c.text_length}'
    )
    if cut > len(found) / 100:
      return Finding(
        'warn', told, 'python -m m3i_jax.tokenizer inspect shows lengths'
      )
    return Finding('ok', told)

  @functools.cached_property
  def words(self) -> tuple[Vocabulary, str]:
    """The tokenizer of the run, or one like it, and where it is from."""
    data, kept = self.config.data, self.workdir / 'tokenizer.model'
    for file in (pathlib.Path(data.tokenizer), kept):
      if file.is_file():
        return tokenizer.open_tokenizer(file.read_bytes()), f'of {file}'
      if data.tokenizer:
        raise UserError(f'config.data.tokenizer={file} does not exist')
    source = dataset.open_split(self.config, data.split)
    found = texts.captions(source, TRAINED)
    model = tokenizer.train_tokenizer(found, data.vocabulary)
    return tokenizer.open_tokenizer(model), (
      f'trained on {len(found):,} captions and tags'
    )

  def page(self, file: str) -> Finding:
    """Writes the pictures of the first batch as the step will have them."""
    # JAX and all of the model, which the other looks do not need.
    from m3i_jax import preview
    from m3i_jax.report import data_page

    config = self.config
    source = dataset.open_split(config, config.data.split)
    words = self.words[0] if config.data.text else None
    objective = build.build(
      config, len(source.classes), words.vocab_size if words else 0,
      weights.describe(config.teacher) if config.teacher else None,
    )  # fmt: skip
    recipe = dataset.recipe(config, objective, dataset.Data(source, words))
    panel, examples = preview.first_batch(
      config, objective, source, recipe, SHOWN
    )
    names = ', '.join(f'{k} of {v}' for k, v in self.parts().items())
    told = [
      f'The first {SHOWN} pictures of the first step, of {names}; '
      f'config.seed={config.seed}, {config.image_size} pixels a side.'
    ]
    files.write(file, data_page.page(
      'What the model sees', told, panel, examples,
      objective.input.images == 2,
    ))  # fmt: skip
    return Finding('ok', f'{file}: {SHOWN} pictures as the model sees them')


@dataclasses.dataclass(frozen=True)
class Tried:
  """What came of reading some records."""

  tried: int
  speed: float  # a second
  having: Mapping[str, int]  # how many have a label, a text
  bad: list[str]  # what cannot be read


def tried(source: sources.Source) -> Tried:
  """Reads and decodes some records, evenly."""
  count = min(TRIED, len(source))
  labels, spoken, bad, begun = 0, 0, [], time.perf_counter()
  for i in range(count):
    index = i * len(source) // count
    name = f'record {index}'
    try:
      record = source[index]
      name = record['id']
      labels += record['label'] >= 0
      spoken += bool(record['text'])
      pictures.decode(record['image'])
    except pictures.PictureError as error:
      bad.append(f'{name} ({error})')
  speed = count / (time.perf_counter() - begun)
  return Tried(count, speed, {'label': labels, 'text': spoken}, bad)


def damaged(name: str, full: bool) -> list[str]:
  """Missing and damaged files of a data set, a line for each."""
  if name.split(':')[0] == 'synthetic':
    return []
  from m3i_jax.prepare import manifest

  directory = places.directory(name)
  if manifest.read(directory) is not None:
    return manifest.verify(directory, full)
  splits = places.builder(directory).info.splits.values()
  shards = (zip(x.filepaths, x.shard_lengths, strict=True) for x in splits)
  told = (_broken(*shard, full) for shard in itertools.chain(*shards))
  return [line for line in told if line]


def _broken(path: epath.Path, records: int, full: bool) -> str:
  """What is wrong with a shard that is in no manifest; '' for nothing."""
  if not path.exists():
    return f'{path} is missing ({records:,} records)'
  if '.array_record' not in path.name:
    return ''  # opening the split says what to do
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(str(path))
    found = reader.num_records()
    for start in range(0, found if full else 0, _READ):
      reader.read(list(range(start, min(start + _READ, found))))
  except Exception as error:  # a damaged file raises many kinds
    return f'{path} is damaged: {error}'
  if found != records:
    return f'{path} has {found:,} records instead of {records:,}'
  return ''


def _doubt(split: str, source: sources.Source, found: Tried) -> str:
  """What is odd about data that can be read; '' for nothing."""
  for part, count in found.having.items():
    if getattr(source.fields, part) and not count:
      return f'is config.data.{part} the right field?'
  if source.fields.label and len(source.classes) == 1:
    return f'the only label is {source.classes[0]!r}: there is nothing to tell'
  name = re.match(r'\w*', split.rpartition('/')[2])[0]
  if name in _HELD_OUT:
    return (
      f'this trains on {name!r}: if there is no other split, prepare it with '
      '--split=train'
    )
  return ''


def _unreadable(told: str, found: Tried) -> Finding:
  few = len(found.bad) < found.tried / 4
  return _wrong(
    f'{told}; {len(found.bad)} cannot be read: ', found.bad,
    'mend them, or prepare the data again; a run takes others in their place '
    'and counts them. --full names damaged files',
    'warn' if few else 'fail',
  )  # fmt: skip


def _wrong(
  told: str, lines: list[str], todo: str, status: str = 'fail'
) -> Finding:
  more = f' and {len(lines) - _NAMED:,} more' if len(lines) > _NAMED else ''
  return Finding(status, f'{told}{", ".join(lines[:_NAMED])}{more}', todo)
