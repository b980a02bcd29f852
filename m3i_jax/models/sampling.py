"""Places between the cells of a map, and the rows of a table to read there.

A table is `padded(value)` as [N * (H + 4) * (W + 4) * G, C]: places outside of
the map are moved to its zeros, so no reading needs a condition.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@flax.struct.dataclass
class Samples:
  """Where the map is read, relative to the cell that asks: [P, N, H, W, G].

  Points come first, so that loops run over neighbours.

  Attributes:
    y, x: int32, the upper left of the four cells around the place.
    fy, fx: float32 in 0..1, how far below and right of it the place is.
    m: float32, the modulation.

  A place at exactly -1, one cell before the map, reads 0 and has a derivative:
  the map's first value. The reference's CUDA kernel skips it (loc > -1).
  """

  y: Array
  x: Array
  fy: Array
  fx: Array
  m: Array

  @classmethod
  def at(cls, places: Array, modulation: Array, height: int, width: int):
    """Of places [N, H, W, G, P, 2] relative to each cell, (x, y)."""
    floor = jax.lax.stop_gradient(jnp.floor(places))
    fraction = places - floor
    # Beyond this all is outside, however far; within, integers are safe.
    far = np.float32([width + 2, height + 2])
    whole = jnp.clip(floor, -far, far).astype(jnp.int32)
    x, y = jnp.moveaxis(whole, (-1, -2), (0, 1))
    fx, fy = jnp.moveaxis(fraction, (-1, -2), (0, 1))
    m = jnp.moveaxis(modulation.astype(jnp.float32), -1, 0)
    return cls(y, x, fy, fx, m)

  def weights(self) -> Array:
    """Bilinear times m, of the corners 00, 01, 10, 11: [4, P, N, H, W, G]."""
    y, x = (1 - self.fy, self.fy), (1 - self.fx, self.fx)
    return jnp.stack([self.m * a * b for a in y for b in x])


def padded(value: Array) -> Array:
  """Two rows and columns of zeros before the map, and two after it."""
  return jnp.pad(value, ((0, 0), (2, 2), (2, 2), (0, 0), (0, 0)))


def cells(samples: Samples, shape: tuple[int, ...]) -> list[Array]:
  """Of each upper left corner, its N, H, W and G in `padded(value)`."""
  n, height, width, groups, _ = shape
  image, y, x, group = np.ogrid[:n, :height, :width, :groups]
  y = jnp.clip(samples.y + y, -2, height) + 2
  x = jnp.clip(samples.x + x, -2, width) + 2
  return [image, y, x, group]


def rows(samples: Samples, shape: tuple[int, ...]) -> Array:
  """Of each upper left corner, its row in `padded(value)` as [rows, C]."""
  _, height, width, groups, _ = shape
  image, y, x, group = cells(samples, shape)
  return ((image * (height + 4) + y) * (width + 4) + x) * groups + group


def corner_rows(samples: Samples, shape: tuple[int, ...]) -> Array:
  """Of all four corners: int32 [4, P, N, H, W, G]."""
  step = np.array(beside(shape)).reshape(-1, 1, 1, 1, 1, 1)
  return rows(samples, shape) + step


def beside(shape: tuple[int, ...]) -> tuple[int, ...]:
  """How many rows of `padded(value)` the corners are from the upper left."""
  _, _, width, groups, _ = shape
  return 0, groups, (width + 4) * groups, (width + 5) * groups


def take(table: Array, index: Array) -> Array:
  """table[index] of float32, without checks."""
  return table.at[index].get(mode='promise_in_bounds').astype(jnp.float32)
