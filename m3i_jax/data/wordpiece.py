"""BERT's WordPiece (Devlin et al., 2019), from the vocab.txt of its weights.

The same ids as Hugging Face's `tokenizers` gives, whose tables of characters
are those of Unicode 8; of newer scripts a few marks differ. One thing is meant
to differ: '[SEP]' in a caption is text here, and never a special piece.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence

from m3i_jax.data.vocabulary import PAD, Vocabulary
from m3i_jax.errors import UserError

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
MOST = 100  # characters of a word that is looked up
_CJK = (
  (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
  (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPiece(Vocabulary):
  """Words, and the longest pieces of words that the vocabulary lacks.

  A vocabulary without a capital letter is of an uncased BERT: text is then
  lower-cased, and loses its accents.

  Args:
    model: of vocab.txt, one piece a line, UTF-8.

  Raises:
    UserError: no such file, or its first piece is not [PAD].
  """

  def __init__(self, model: bytes):
    self.model = model
    names = _lines(model)
    # Of a piece that is there twice, the later one counts.
    self._ids = {name: i for i, name in enumerate(names)}
    missing = [name for name in SPECIAL if name not in self._ids]
    if missing:
      raise UserError(f'the vocabulary has no {", ".join(missing)}: name the '
                      'vocab.txt of a BERT')  # fmt: skip
    if self._ids['[PAD]'] != PAD:
      raise UserError(
        f'[PAD] is piece {self._ids["[PAD]"]} of the vocabulary: it must be '
        'the first one, for 0 is padding here'
      )
    self._names = names
    _, self.unknown, self.cls, self.eos = (self._ids[x] for x in SPECIAL)
    self.cased = any(
      'A' <= x <= 'Z' for name in names if name[:1] != '[' for x in name
    )
    self.kind = f'WordPiece, {"cased" if self.cased else "uncased"}'
    self._word = functools.lru_cache(2**16)(self._split)

  @property
  def vocab_size(self) -> int:
    return len(self._names)

  def pieces(self, text: str) -> list[int]:
    found = [self.cls]
    for word in words(text, self.cased):
      found += self._word(word)
    return [*found, self.eos]

  def name(self, piece: int) -> str:
    return self._names[piece]

  def spelled(self, piece: int) -> bool:
    return piece != self.unknown

  def joined(self, ids: Sequence[int]) -> str:
    return ' '.join(self._names[i] for i in ids).replace(' ##', '')

  def _split(self, word: str) -> tuple[int, ...]:
    """Greedily the longest piece; UNKNOWN alone if some end has none."""
    found, at = [], 0
    while at < len(word) <= MOST:
      head, end = '##' * (at > 0), len(word)
      while end > at and head + word[at:end] not in self._ids:
        end -= 1
      if end == at:
        break
      found.append(self._ids[head + word[at:end]])
      at = end
    return tuple(found) if at == len(word) else (self.unknown,)


def words(text: str, cased: bool) -> list[str]:
  """BERT's basic tokens: words, and each mark of punctuation by itself."""
  text = text.translate(_CLEAN)
  if not cased:
    text = unicodedata.normalize('NFD', text).translate(_PLAIN)
  return text.translate(_SPACED).split()


class _Table(dict):
  """What becomes of each character; filled as they come."""

  def __init__(self, of: Callable[[str], str]):
    self.of = of

  def __missing__(self, code: int) -> str:
    return self.setdefault(code, self.of(chr(code)))


def _clean(x: str) -> str:
  if x in '\t\n\r':
    return ' '
  if x in '\0\ufffd' or unicodedata.category(x) in ('Cc', 'Cf', 'Co', 'Cs'):
    return ''
  return f' {x} ' if any(a <= ord(x) <= b for a, b in _CJK) else x


def _punctuation(x: str) -> bool:
  if x.isascii():  # $, + and the like as well
    return x.isprintable() and not x.isalnum() and x != ' '
  return unicodedata.category(x)[0] == 'P'


_CLEAN = _Table(_clean)
_PLAIN = _Table(lambda x: '' if unicodedata.category(x) == 'Mn' else x.lower())
_SPACED = _Table(lambda x: f' {x} ' if _punctuation(x) else x)


def _lines(model: bytes) -> list[str]:
  try:
    text = model.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise UserError(
      f'the vocabulary is no UTF-8 text (byte {error.start}): name a vocab.txt'
    ) from error
  lines = [line.rstrip('\r') for line in text.split('\n')]
  return lines[:-1] if not lines[-1] else lines
