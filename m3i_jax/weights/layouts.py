"""How PyTorch lays a parameter out, and how this package does.

A layout is a pair of inverse functions between the arrays of one layer under
official names and ours; both only move numbers, so that a way there and back
is bitwise.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
  """Official arrays -> a tuple of ours, and back; rank: number of our axes."""

  load: Callable[..., tuple[np.ndarray, ...]]
  dump: Callable[..., tuple[np.ndarray, ...]]
  rank: int


def _one(load: Callable, dump: Callable, rank: int) -> Layout:
  return Layout(lambda x: (load(x),), lambda x: (dump(x),), rank)


def _same(rank: int) -> Layout:
  return _one(lambda x: x, lambda x: x, rank)


def _counted(x: np.ndarray) -> np.ndarray:
  if not 0 <= x < 2**63:
    raise ValueError(f'{x} is no count')
  # Moving averages of a count may be a little beside it.
  return np.rint(x).astype(np.int64)


SCALAR, VECTOR, TABLE, TOKEN = map(_same, range(4))
# [out, in] <-> [in, out]
LINEAR = _one(np.transpose, np.transpose, 2)
# [out, in, h, w] <-> [h, w, in, out]; depthwise too, whose `in` is 1.
CONV = _one(
  lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1), 4
)
# A 1 x 1 convolution that is a linear map: [out, in, 1, 1] <-> [in, out]
POINTWISE = _one(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None], 2)
# A table [L, D] or token [1, D] <-> [1, L, D]
LEADING = _one(lambda x: x[None], lambda x: x[0], 3)
# PyTorch counts batches in int64 <-> float32, as all parameters are.
COUNT = _one(lambda x: x, _counted, 0)
# q, k, v apart <-> side by side
QKV = Layout(
  lambda *x: (np.concatenate([y.T for y in x], axis=1),),
  lambda x: tuple(y.T for y in np.split(x, 3, axis=1)),
  2,
)
QKV_BIAS = Layout(
  lambda *x: (np.concatenate(x),), lambda x: tuple(np.split(x, 3)), 1
)
# nn.MultiheadAttention's q | k | v <-> q, and k | v
IN_PROJ = Layout(
  lambda x: (x[: len(x) // 3].T, x[len(x) // 3 :].T),
  lambda q, kv: (np.concatenate([q.T, kv.T]),),
  2,
)
IN_PROJ_BIAS = Layout(
  lambda x: (x[: len(x) // 3], x[len(x) // 3 :]),
  lambda q, kv: (np.concatenate([q, kv]),),
  1,
)
