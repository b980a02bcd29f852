"""Zero-shot: which of all captions does a picture lie nearest to?"""

import dataclasses

import numpy as np

from m3i_jax.evals import ranking
from m3i_jax.evals.features import (
  Features,
  Splits,
  each,
  images_of,
  labels_of,
  words,
)

_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class ZeroShot:
  """Cosine of a picture with every caption that the candidate splits use.

  Only pictures whose own caption is a candidate are asked. Features without a
  text encoder are not scored: {}.
  """

  queries: Splits
  candidates: Splits
  field: str = 'caption'

  def run(self, features: Features) -> dict[str, float]:
    if not features.has_text:
      return {}
    captions = np.unique(labels_of(features, self.candidates, self.field))
    truth = ranking.positions(
      captions, labels_of(features, self.queries, self.field)
    )
    asked = truth >= 0
    found = zeroshot_ranks(
      images_of(features, self.queries)[asked],
      features.texts([str(caption) for caption in captions]), truth[asked],
    )
    return ranking.metrics(
      found, {top: 100 * min(top / len(captions), 1) for top in (1, 5)}
    )

  def reads(self) -> list[tuple[str, str]]:
    return each(self.queries, self.field) + each(
      self.candidates, self.field
    )

  def explain(self) -> str:
    return (
      f'{self.field} of a {words(self.queries)} picture, the nearest of all '
      f'captions of {words(self.candidates)}'
    )


def zeroshot_ranks(
    images: np.ndarray, texts: np.ndarray, truth: np.ndarray
) -> np.ndarray:
  """How many of texts [M, D] lie nearer than the true one, int [n].

  images: [n, D]. truth: int [n], a row of texts. Memory is O(chunk * M).
  """
  keys = ranking.unit(texts)
  found = [
    ranking.ranks(
      ranking.cosines(ranking.unit(images[start : start + _CHUNK]), keys),
      truth[start : start + _CHUNK],
    )
    for start in range(0, len(images), _CHUNK)
  ]
  return np.concatenate(found)
