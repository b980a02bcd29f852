"""What every tokenizer does: text as a fixed number of ids, and back."""

import abc
from collections.abc import Sequence

import numpy as np

PAD = 0  # the text tower takes it for padding


class Vocabulary(abc.ABC):
  """Pieces of text by number.

  It can be pickled, and threads may share it.

  Attributes:
    model: the bytes of its file.
    kind: what it is, for people.
    pad, unknown, cls, eos: ids; `pad` is always 0.
  """

  model: bytes
  kind: str
  pad: int = PAD
  unknown: int
  cls: int
  eos: int

  def __reduce__(self):
    return type(self), (self.model,)

  @property
  @abc.abstractmethod
  def vocab_size(self) -> int:
    """V."""

  @abc.abstractmethod
  def pieces(self, text: str) -> list[int]:
    """CLS, the ids of the whole text, EOS."""

  @abc.abstractmethod
  def name(self, piece: int) -> str:
    """A piece as its file spells it."""

  @abc.abstractmethod
  def spelled(self, piece: int) -> bool:
    """False for a piece that stands for what has no piece of its own."""

  @abc.abstractmethod
  def joined(self, ids: Sequence[int]) -> str:
    """The text of ids, none of which is PAD, CLS or EOS."""

  def encode(self, text: str, length: int) -> np.ndarray:
    """int32 [T]: `pieces`, then PAD; a longer text loses its end, see `fit`."""
    return fit(self.pieces(text), length)

  def decode(self, tokens: np.ndarray) -> str:
    """The text of the ids before the first EOS, without CLS and PAD."""
    ids = [int(token) for token in tokens]
    ids = ids[: ids.index(self.eos)] if self.eos in ids else ids
    return self.joined([i for i in ids if i not in (PAD, self.cls)])


def fit(pieces: list[int], length: int) -> np.ndarray:
  """int32 [length]: filled up with PAD, or cut, with the last piece kept."""
  tokens = np.full(length, PAD, np.int32)
  tokens[: len(pieces)] = pieces[:length]
  if len(pieces) > length:
    tokens[-1] = pieces[-1]  # EOS
  return tokens
