"""From scores to metrics: where the truth ranks, and how often it is high."""

from collections.abc import Mapping

import numpy as np


def unit(x: np.ndarray, mean: np.ndarray | float = 0) -> np.ndarray:
  """Directions of x - mean, float64 [n, D]; a zero vector stays zero."""
  x = np.asarray(x, np.float64) - mean
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.maximum(norm, 1e-12)


def cosines(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
  """Products of unit vectors [c, D], [M, D] -> float64 [c, M].

  Rounded, so that equal pictures tie whatever order the sums were taken in.
  """
  return np.round(queries @ keys.T, 9)


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """How many classes come before the true one: int [n], 0 is a hit.

  scores: [n, C]; -inf is no candidate. truth: int [n]; -1 is a class unknown.
  Of equal scores the lower class comes first. What is not found ranks C.
  """
  classes = scores.shape[1]
  own = np.take_along_axis(scores, np.maximum(truth, 0)[:, None], axis=1)
  lower = np.arange(classes) < truth[:, None]
  before = (scores > own) | ((scores == own) & lower)
  found = (truth >= 0) & np.isfinite(own[:, 0])
  return np.where(found, before.sum(axis=1), classes)


def positions(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Where each label stands in sorted classes: int [n], -1 if nowhere."""
  at = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
  return np.where(classes[at] == labels, at, -1)


def metrics(
    found: np.ndarray, chances: Mapping[int, float]
) -> dict[str, float]:
  """Percent of ranks [n] below t, for each t of {t: chance level}.

  `topT_se` is the binomial standard error over the n pictures scored.
  """
  out = {}
  for top, chance in chances.items():
    rate = float(np.mean(found < top))
    out[f'top{top}'] = 100 * rate
    out[f'top{top}_se'] = 100 * float(np.sqrt(rate * (1 - rate) / len(found)))
    out[f'top{top}_chance'] = chance
  return out


def majority(train: np.ndarray, test: np.ndarray, top: int) -> float:
  """Percent of test labels among the `top` most frequent train labels."""
  classes, counts = np.unique(train, return_counts=True)
  likely = classes[np.argsort(-counts, kind='stable')[:top]]
  return 100 * float(np.mean(np.isin(test, likely)))
