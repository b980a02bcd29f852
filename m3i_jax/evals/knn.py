"""Nearest neighbours: do the features of like things lie together?"""

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
_MANY_CLASSES = 100


@dataclasses.dataclass(frozen=True)
class Knn:
  """Weighted k-NN by cosine, weights exp(cosine / temperature).

  The common protocol of self-supervised learning (Wu et al. 2018; DINO), on
  features less the mean of the train split. k=1 ranks classes by their nearest
  picture, so that its top-5 are the five nearest distinct classes. A class that
  the train split lacks is a miss. From 100 classes on, top-5 is told as well.
  """

  train: Splits
  test: Splits
  label: str
  k: int = 20
  temperature: float = 0.07

  def run(self, features: Features) -> dict[str, float]:
    known = labels_of(features, self.train, self.label)
    asked = labels_of(features, self.test, self.label)
    classes, label = np.unique(known, return_inverse=True)
    found = knn_ranks(
      images_of(features, self.train), label, images_of(features, self.test),
      ranking.positions(classes, asked), self.k, self.temperature,
    )
    tops = (1, 5) if len(classes) >= _MANY_CLASSES else (1,)
    return ranking.metrics(
      found, {top: ranking.majority(known, asked, top) for top in tops}
    )

  def reads(self) -> list[tuple[str, str]]:
    return each(self.train, self.label) + each(self.test, self.label)

  def explain(self) -> str:
    near = 'picture' if self.k == 1 else f'{self.k} pictures'
    return (
      f'{self.label} of a {words(self.test)} picture, told by its nearest '
      f'{near} of {words(self.train)}'
    )


def knn_ranks(
    train: np.ndarray,
    label: np.ndarray,
    test: np.ndarray,
    truth: np.ndarray,
    k: int,
    temperature: float,
) -> np.ndarray:
  """Where the true class ranks for each test picture: int [n].

  train, test: [M, D], [n, D]. label: int [M] in 0..C-1, every class present.
  truth: int [n], -1 where the class is unknown. Memory is O(chunk * M).
  """
  mean = np.mean(train, axis=0, dtype=np.float64)
  order = np.argsort(label, kind='stable')
  keys, label = ranking.unit(train[order], mean), label[order]
  found = []
  for start in range(0, len(test), _CHUNK):
    rows = slice(start, start + _CHUNK)
    similarity = ranking.cosines(ranking.unit(test[rows], mean), keys)
    if k == 1:
      scores = best(similarity, label)
    else:
      scores = votes(similarity, label, k, temperature)
    found.append(ranking.ranks(scores, truth[rows]))
  return np.concatenate(found)


def best(similarity: np.ndarray, label: np.ndarray) -> np.ndarray:
  """The highest similarity [c, M] of each class [c, C]; label [M] sorted."""
  starts = np.flatnonzero(np.diff(label, prepend=-1))
  return np.maximum.reduceat(similarity, starts, axis=1)


def votes(
    similarity: np.ndarray, label: np.ndarray, k: int, temperature: float
) -> np.ndarray:
  """What the k nearest of [c, M] give each class [c, C]; -inf for nothing."""
  near = nearest(similarity, k)
  # Less 1, the highest cosine: a common factor that keeps exp in range.
  weight = np.exp((np.take_along_axis(similarity, near, 1) - 1) / temperature)
  total = np.zeros((len(similarity), label[-1] + 1))
  np.add.at(total, (np.arange(len(near))[:, None], label[near]), weight)
  return np.where(total > 0, total, -np.inf)


def nearest(similarity: np.ndarray, k: int) -> np.ndarray:
  """Columns of the k highest of [c, M], any order; ties: lower column first."""
  k = min(k, similarity.shape[1])
  least = np.partition(similarity, -k, axis=1)[:, -k, None]
  above, equal = similarity > least, similarity == least
  room = k - above.sum(axis=1, keepdims=True)
  chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
  return np.nonzero(chosen)[1].reshape(-1, k)
