"""How long texts are in pieces, and how well the pieces suit them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3i_jax.data.vocabulary import Vocabulary
from m3i_jax.errors import UserError

BARS = 16  # of a histogram
LONG = 80  # pieces of an example


@dataclasses.dataclass(frozen=True)
class Lengths:
  """What a tokenizer makes of some texts.

  Attributes:
    pieces: int64 [N], of each text, CLS and EOS among them.
    words: how many words, between spaces, the texts have together.
    used: int64 [V], how often each piece is used.
    spelled: bool [V], False for bytes, for unknown words, and for what is no
      text, such as CLS.
    lacking: texts that have a piece that is not spelled.
  """

  pieces: np.ndarray
  words: int
  used: np.ndarray
  spelled: np.ndarray
  lacking: int

  def summary(self, lengths: Sequence[int]) -> dict[str, Any]:
    """The numbers, as JSON has them; shares in 0..1.

    lengths: T for which to tell what share of the texts is cut.
    """
    inner = int(self.used.sum())
    return {
      'texts': len(self.pieces),
      'min': int(self.pieces.min()),
      'mean': float(self.pieces.mean()),
      'median': float(np.median(self.pieces)),
      'p95': float(np.percentile(self.pieces, 95)),
      'max': int(self.pieces.max()),
      'cut': {str(n): float((self.pieces > n).mean()) for n in lengths},
      'pieces_per_word': inner / max(self.words, 1),
      'unspelled_pieces': float(self.used[~self.spelled].sum() / max(inner, 1)),
      'unspelled_texts': self.lacking / len(self.pieces),
      'vocabulary': len(self.used),
      'never_used': int((self.used[self.spelled] == 0).sum()),
    }

  def histogram(self) -> list[tuple[str, float]]:
    """(lengths, share of the texts), shortest first; the last bar is open."""
    least, top = self.pieces.min(), np.percentile(self.pieces, 99)
    width = int(max(1, np.ceil((top - least + 1) / BARS)))
    bar = np.minimum((self.pieces - least) // width, BARS - 1)
    found = []
    for i, share in enumerate(np.bincount(bar) / len(bar)):
      first = int(least + i * width)
      last = first + width - 1
      if i == BARS - 1 and self.pieces.max() > last:
        name = f'{first}+'
      else:
        name = str(first) if width == 1 else f'{first}-{last}'
      found.append((name, float(share)))
    return found

  def ranked(self) -> np.ndarray:
    """The ids of the pieces that are used, the most frequent first."""
    order = np.argsort(-self.used, kind='stable')
    return order[self.used[order] > 0]


def measure(words: Vocabulary, texts: Sequence[str]) -> Lengths:
  """Looks at every text.

  Raises:
    UserError: there are none.
  """
  if not texts:
    raise UserError('no captions: check the text field')
  size = words.vocab_size
  spelled = np.array([words.spelled(i) for i in range(size)])
  spelled[[words.pad, words.cls, words.eos]] = False
  used, lacking, pieces = np.zeros(size, np.int64), 0, []
  for text in texts:
    ids = words.pieces(text)
    pieces.append(len(ids))
    inner = ids[1:-1]
    np.add.at(used, inner, 1)
    lacking += not spelled[inner].all()
  spoken = sum(len(text.split()) for text in texts)
  return Lengths(np.array(pieces), spoken, used, spelled, lacking)


def examples(words: Vocabulary, texts: Sequence[str], measured: Lengths,
             count: int = 5) -> list[list[str]]:  # fmt: skip
  """Texts from the shortest to the longest, as the names of their pieces.

  Of a long one only the beginning, and an ellipsis.
  """
  order = np.argsort(measured.pieces, kind='stable')
  at = np.unique(np.linspace(0, len(order) - 1, count).astype(int))
  chosen = [texts[order[i]] for i in at]
  named = [[words.name(i) for i in words.pieces(text)] for text in chosen]
  return [x if len(x) <= LONG else [*x[:LONG], '…'] for x in named]
