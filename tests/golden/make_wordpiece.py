"""Writes wordpiece.json: what Hugging Face's `tokenizers` makes of texts.

Needs tokenizers (and transformers, which must agree), which nothing else here
needs:
  python tests/golden/make_wordpiece.py

The two vocabularies are trained here, so that they know every character.
"""

import json
import pathlib
import tempfile

import transformers
from tokenizers import BertWordPieceTokenizer, decoders

SENTENCES = [
  f'{size} {colour} {thing} {where}, {mark}'
  for size in ('a small', 'The LARGE', 'an Unbelievably huge')
  for colour in ('red', 'café-green', 'navy blue')
  for thing in ('house', "cat's toy", 'playing dogs', 'Straße')
  for where in ('in Paris', 'on the table', 'under 100 trees')
  for mark in ('naïve!', 'isn’t it?', '(yes) $5.00')
]
SENTENCES += ['北京 市 日本語 テスト', 'привет мир', 'γλώσσα', 'שלום', 'é'] * 4
TEXTS = [
  'a small red house in Paris',
  'UNBELIEVABLY huge playing Dogs',
  "isn't the cat's toy on-the-table?! $5.00 (100%)",
  'naïve café, NAÏVE CAFÉ, nai\u0308ve cafe\u0301',
  'unseenwords housecats tableland',
  'two  spaces\tand\na line \u00a0\u2003\u3000 wide',
  'zero\u200bwidth\u200d\ufeff soft\u00adhyphen null\0 bad\ufffd',
  '\x07bell \x1b[31mred\x0b\x0c\x85 \ue000private',
  'in北京市the table 日本語テスト',
  '𠀀rare 豈compat',
  'Привет МИР й ё',
  'γλώσσα ΓΛΏΣΣΑ ΟΔΟΣ',
  'İstanbul ıssız ǅ ẞ Straße STRASSE',
  'שָׁלוֹם مَرحَبا हिन्दी ไทย 한국어',
  'ﬁne ½ ² ™ Ｗｉｄｅ e\u0301\u0327',
  'a 🙂 smile 👩\u200d🚀 ☃ \U0001fae0',
  '¿qué? «sí» …—–‘’“” ·•†‡ €£¥ ©®',
  '+-*/=<>^`|~@#&_{}[]\\;:',
  '؟ ، ۔ । 。、！ \u037e \u0387',
  '##house house## # #',
  'a' * 99 + ' ' + 'a' * 100 + ' ' + 'a' * 101,
  'é' * 60 + ' ' + 'e\u0301' * 99,
  '',
  '   ',
  '!',
]


def golden(cased: bool) -> dict:
  tokenizer = BertWordPieceTokenizer(lowercase=not cased)
  tokenizer.train_from_iterator(
    SENTENCES + TEXTS, 600, min_frequency=1, show_progress=False,
  )  # fmt: skip
  pieces = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
  vocabulary = ''.join(f'{name}\n' for name, _ in pieces)
  with tempfile.TemporaryDirectory() as place:
    file = pathlib.Path(place, 'vocab.txt')
    file.write_text(vocabulary)
    tokenizer = BertWordPieceTokenizer(str(file), lowercase=not cased)
    other = transformers.BertTokenizer(str(file), do_lower_case=not cased)
  ids = [tokenizer.encode(text).ids for text in TEXTS]
  assert ids == [other(text)['input_ids'] for text in TEXTS]
  tokenizer.decoder = decoders.WordPiece(cleanup=False)
  plain = [tokenizer.decode(x, skip_special_tokens=True) for x in ids]
  return dict(vocabulary=vocabulary, ids=ids, plain=plain)


def main() -> None:
  found = dict(texts=TEXTS, uncased=golden(False), cased=golden(True))
  file = pathlib.Path(__file__).parent / 'wordpiece.json'
  file.write_text(json.dumps(found) + '\n')


if __name__ == '__main__':
  main()
