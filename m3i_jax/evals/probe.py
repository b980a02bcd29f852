"""Linear probe in closed form: can a linear map read the label off?"""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from m3i_jax.errors import UserError
from m3i_jax.evals import ranking
from m3i_jax.evals.features import (
  Features,
  Splits,
  each,
  images_of,
  labels_of,
  words,
)

_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Probe:
  """Ridge regression to one-hot targets on standardised features.

  The ridge, a multiple of the number of pictures, is chosen on a fifth of the
  train split, whole groups of `split_by` held out by a hash of their name, and
  the probe is then fitted to all of it: test pictures choose nothing.
  """

  train: Splits
  test: Splits
  label: str
  split_by: str = 'concept'
  ridges: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 1e1)

  def run(self, features: Features) -> dict[str, float]:
    known = labels_of(features, self.train, self.label)
    asked = labels_of(features, self.test, self.label)
    classes, label = np.unique(known, return_inverse=True)
    ridge = choose_ridge(
      images_of(features, self.train), label,
      held_out(labels_of(features, self.train, self.split_by)), self.ridges,
    )
    fit = fit_ridge(images_of(features, self.train), label, (ridge,))
    found = probe_ranks(
      fit, images_of(features, self.test), ranking.positions(classes, asked)
    )[0]
    return ranking.metrics(found, {1: ranking.majority(known, asked, 1)})

  def reads(self) -> list[tuple[str, str]]:
    return each(self.train, self.label, self.split_by) + each(
      self.test, self.label
    )

  def explain(self) -> str:
    return (
      f'{self.label} of a {words(self.test)} picture, told by a linear map '
      f'fitted to {words(self.train)}'
    )


class Fit(NamedTuple):
  """Maps x to (x - mean) * scale @ weights[r] + bias, r a ridge."""

  mean: np.ndarray  # [D]
  scale: np.ndarray  # [D]
  weights: np.ndarray  # [R, D, C]
  bias: np.ndarray  # [C]


def held_out(groups: np.ndarray) -> np.ndarray:
  """Which records validate: bool [n], about one group in five."""
  names, at = np.unique(groups, return_inverse=True)
  # Salted: the data may have been split by an unsalted hash of these names.
  salted = [f'probe:{name}'.encode() for name in names]
  digests = [hashlib.sha256(name).digest() for name in salted]
  chosen = np.array([int.from_bytes(d[:8], 'big') % 5 == 0 for d in digests])
  if chosen.all() or not chosen.any():
    raise UserError(
      f'Evaluation: a probe cannot hold out a fifth of {len(names)} groups; '
      'set its split_by to a field with more values.'
    )
  return chosen[at]


def choose_ridge(
    x: np.ndarray,
    label: np.ndarray,
    validates: np.ndarray,
    ridges: tuple[float, ...],
) -> float:
  """The ridge with most hits where `validates`; the larger one if equal."""
  ridges = tuple(sorted(ridges, reverse=True))
  classes, fitted = np.unique(label[~validates], return_inverse=True)
  fit = fit_ridge(x[~validates], fitted, ridges)
  truth = ranking.positions(classes, label[validates])
  hits = (probe_ranks(fit, x[validates], truth) == 0).sum(axis=1)
  return ridges[int(np.argmax(hits))]


def fit_ridge(
    x: np.ndarray, label: np.ndarray, ridges: tuple[float, ...]
) -> Fit:
  """Least squares to one-hot targets with a penalty of n * ridge * |w|^2.

  x: [n, D]. label: int [n] in 0..C-1. One eigendecomposition in float64 serves
  every ridge; the bias, free of penalty, is what centring leaves: frequencies.
  """
  n, dims = x.shape
  mean = np.mean(x, axis=0, dtype=np.float64)
  std = np.std(x, axis=0, dtype=np.float64)
  # A dimension that hardly varies must not be blown up to unit variance.
  scale = 1 / np.maximum(std, max(1e-4 * std.max(initial=0), 1e-12))
  bias = np.bincount(label) / n
  gram, moment = np.zeros((dims, dims)), np.zeros((dims, len(bias)))
  for start in range(0, n, _CHUNK):
    rows = slice(start, start + _CHUNK)
    z = (x[rows] - mean) * scale
    gram += z.T @ z
    moment += z.T @ (np.eye(len(bias))[label[rows]] - bias)
  values, vectors = np.linalg.eigh(gram / n)
  moment = vectors.T @ (moment / n)
  weights = [vectors @ (moment / (values + r)[:, None]) for r in ridges]
  return Fit(mean, scale, np.stack(weights), bias)


def probe_ranks(fit: Fit, x: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Where the true class ranks for each ridge and picture: int [R, n]."""
  found = []
  for start in range(0, len(x), _CHUNK):
    rows = slice(start, start + _CHUNK)
    z = (x[rows] - fit.mean) * fit.scale
    found.append([
      ranking.ranks(z @ weights + fit.bias, truth[rows])
      for weights in fit.weights
    ])
  return np.concatenate(found, axis=1)
