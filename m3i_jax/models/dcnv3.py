"""Deformable convolution v3 (InternImage, Wang et al., CVPR 2023, section 3.1).

Every output cell of every group sums P = K * K samples of its group's value
map, each at a learned place and with a learned weight:

    y[o] = sum_p m[o, p] v(o + s (grid[p] + offset[o, p]))

v(.) is bilinear between cells and zero outside of the map. All formulations
are exact for any offset. A bilinear weight is made of the floor and the
fraction of a place; so at a whole place (all of them, when training begins)
the derivative to the offset is the one to the right, as in the reference.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
EXACT = jax.lax.Precision.HIGHEST
TPU_DENSE, CPU_DENSE = 24 * 24, 14 * 14  # cells; larger maps make no matrix


def dcnv3(
  value: Array,
  offset: Array,
  modulation: Array,
  *,
  kernel_size: int,
  dilation: int = 1,
  offset_scale: float = 1.0,
  remove_center: bool = False,
  impl: str = 'auto',
) -> Array:
  """Stride 1, 'same' padding: value [N, H, W, G, C] -> [N, H, W, G, C].

  Args:
    value: in any float dtype, which the result has, too. Sums are float32.
    offset: [N, H, W, G, P, 2], last axis (x, y), in cells; points with x slow.
    modulation: [N, H, W, G, P], the weights m.
    kernel_size: K; dilation * (K - 1) must be even.
    offset_scale: s, scales the grid and the offsets.
    remove_center: without the middle point: P = K * K - 1, K odd.
    impl: a key of IMPLS, or 'auto', which chooses by size and platform:
      'corners'  a sum of 4 P gathers that the compiler makes one loop, and a
                 backward pass by hand: CPU and GPU.
      'packed'   the four corners of a place side by side in one gather.
      'scan'     'packed', point by point: the least memory.
      'onehot'   bilinear weights as a matrix [H * W, H * W] and a product, no
                 gather and no scatter: small maps on a TPU.
  Raises:
    ValueError: shapes that do not fit, an unknown impl.
  """
  points = kernel_size**2 - remove_center
  n, height, width, groups, _ = value.shape
  want = (n, height, width, groups, points)
  if offset.shape != (*want, 2) or modulation.shape != want:
    raise ValueError(
      f'dcnv3: value {value.shape} with kernel_size={kernel_size} needs offset '
      f'{(*want, 2)} and modulation {want}, not {offset.shape} and '
      f'{modulation.shape}'
    )
  if dilation * (kernel_size - 1) % 2 or (remove_center and not points % 2 == 0):
    raise ValueError(
      f'dcnv3: kernel_size={kernel_size}, dilation={dilation}, remove_center='
      f'{remove_center} have no middle: choose an odd kernel_size'
    )
  if impl != 'auto' and impl not in IMPLS:
    raise ValueError(f'dcnv3: impl={impl!r}: auto, {", ".join(IMPLS)}')
  places = grid(kernel_size, dilation, remove_center) + offset.astype(
    jnp.float32
  )
  samples = Samples.at(offset_scale * places, modulation, height, width)
  impl = choice(height * width) if impl == 'auto' else impl
  return IMPLS[impl](value, samples).astype(value.dtype)


def choice(cells: int) -> str:
  """The formulation for a map of so many cells on this platform."""
  if jax.default_backend() != 'tpu':
    return 'corners'
  return 'onehot' if cells <= TPU_DENSE else 'packed'


def grid(kernel_size: int, dilation: int, remove_center: bool) -> np.ndarray:
  """The places before they move: float32 [P, 2], (x, y), x slow."""
  centre = dilation * (kernel_size - 1) // 2
  steps = np.float32(dilation * np.arange(kernel_size) - centre)
  places = np.stack(np.meshgrid(steps, steps, indexing='ij'), -1)
  places = places.reshape(-1, 2)
  return np.delete(places, len(places) // 2, 0) if remove_center else places


@flax.struct.dataclass
class Samples:
  """Where the map is read, relative to the cell that asks: [P, N, H, W, G].

  Points come first, so that loops run over neighbours.

  Attributes:
    y, x: int32, the upper left of the four cells around the place.
    fy, fx: float32 in 0..1, how far below and right of it the place is.
    m: float32, the modulation.
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
    return cls(y, x, fy, fx, jnp.moveaxis(modulation.astype(jnp.float32), -1, 0))

  def weights(self) -> Array:
    """Bilinear times m, of the corners 00, 01, 10, 11: [4, P, N, H, W, G]."""
    y, x = (1 - self.fy, self.fy), (1 - self.fx, self.fx)
    return jnp.stack([self.m * a * b for a in y for b in x])


def padded(value: Array) -> Array:
  """Two rows and columns of zeros before the map, and two after it."""
  return jnp.pad(value, ((0, 0), (2, 2), (2, 2), (0, 0), (0, 0)))


def rows(samples: Samples, shape: tuple[int, ...]) -> Array:
  """Of each upper left corner, its row in `padded(value)` as [rows, C]."""
  n, height, width, groups, _ = shape
  own = np.ogrid[:n, :height, :width, :groups]
  y = jnp.clip(samples.y + own[1], -2, height) + 2
  x = jnp.clip(samples.x + own[2], -2, width) + 2
  return ((own[0] * (height + 4) + y) * (width + 4) + x) * groups + own[3]


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


def packed(value: Array, samples: Samples) -> Array:
  """One gather of P rows of 4 C for each cell and group."""
  table = quads(value)
  near = take(table, rows(samples, value.shape))
  near = near.reshape(*near.shape[:-1], 4, -1)
  return jnp.einsum(
    'pnhwgkc,kpnhwg->nhwgc', near, samples.weights(), precision=EXACT
  )


def quads(value: Array) -> Array:
  """Each cell with its neighbours right, below, and both: [rows, 4 C]."""
  table = padded(value).reshape(-1, value.shape[-1])
  return jnp.concatenate(
    [jnp.roll(table, -step, axis=0) for step in beside(value.shape)], axis=1
  )


def scan(value: Array, samples: Samples) -> Array:
  """The same, a point at a time, and again for the gradient."""
  table, shape = quads(value), value.shape

  @jax.checkpoint
  def add(total, point):
    near = take(table, rows(point, shape))
    near = near.reshape(*near.shape[:-1], 4, -1)
    weights = jnp.moveaxis(point.weights(), 0, -1)
    return total + (near * weights[..., None]).sum(-2), None

  total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), samples)
  return total


def onehot(value: Array, samples: Samples) -> Array:
  """A product with the matrix of bilinear weights."""
  n, height, width, groups, channels = value.shape
  a = matrix(samples, height, width).astype(value.dtype)
  flat = value.reshape(n, height * width, groups, channels)
  out = jnp.einsum(
    'ngok,nkgc->nogc', a, flat, precision=EXACT,
    preferred_element_type=jnp.float32,
  )  # fmt: skip
  return out.reshape(value.shape)


def matrix(samples: Samples, height: int, width: int) -> Array:
  """How much a cell reads of each: [N, G, H * W, H * W], sum_p m wy wx."""
  y = samples.y + np.arange(height)[:, None, None]
  x = samples.x + np.arange(width)[:, None]
  wy = samples.m * tents(y, samples.fy, np.arange(height))
  wx = tents(x, samples.fx, np.arange(width))
  a = jnp.einsum('ipnyxg,jpnyxg->ngyxij', wy, wx, precision=EXACT)
  return a.reshape(*a.shape[:2], height * width, height * width)


def tents(first: Array, fraction: Array, at: np.ndarray) -> Array:
  """Along one axis, the weights of the places `at`: [len(at), P, ...]."""
  at = at.reshape(-1, *(1,) * first.ndim)
  below = jnp.where(first == at, 1 - fraction, 0.0)
  return below + jnp.where(first + 1 == at, fraction, 0.0)


@jax.custom_vjp
def corners(value: Array, samples: Samples) -> Array:
  """Corner after corner, which fuses into one loop over the output."""
  table = padded(value).reshape(-1, value.shape[-1])
  steps = beside(value.shape)

  def add(total, some):
    first, weights = some
    return total + sum(
      take(table, first[p] + step) * weights[p, k, ..., None]
      for p in range(len(first))
      for k, step in enumerate(steps)
    ), None

  # Some points at a time: what follows cannot join the loop, and do it again.
  points = rows(samples, value.shape), jnp.moveaxis(samples.weights(), 0, 1)
  some = most(8, len(samples.m))
  points = jax.tree.map(lambda x: x.reshape(-1, some, *x.shape[1:]), points)
  return jax.lax.scan(add, jnp.zeros(value.shape, jnp.float32), points)[0]


def _corners_forward(value, samples):
  return corners(value, samples), (value, samples)


def _corners_backward(saved, gradient):
  value, s = saved
  gradient = gradient.astype(jnp.float32)
  a, b, c, d = dots(padded(value), corner_rows(s, value.shape), gradient)
  gy, gx = (1 - s.fy, s.fy), (1 - s.fx, s.fx)
  dm = gy[0] * (gx[0] * a + gx[1] * b) + gy[1] * (gx[0] * c + gx[1] * d)
  dy = s.m * (gx[0] * (c - a) + gx[1] * (d - b))
  dx = s.m * (gy[0] * (b - a) + gy[1] * (d - c))
  none = np.zeros(s.y.shape, jax.dtypes.float0)
  return to_value(s, gradient).astype(value.dtype), Samples(
    none, none, dy, dx, dm
  )


corners.defvjp(_corners_forward, _corners_backward)


def dots(value: Array, index: Array, gradient: Array) -> Array:
  """<gradient, v> at every corner: [4, P, N, H, W, G]."""
  channels, shape = value.shape[-1], index.shape
  # Some channels at a time fuse into one loop over the corners; the scan keeps
  # what is before and after out of it.
  some = most(min(8, channels // 2), channels)
  lead = lambda x: jnp.moveaxis(x, -1, 0).reshape(-1, some, x.size // channels)
  index = index.reshape(-1, shape[2] * shape[3] * shape[4] * shape[5])

  def add(total, parts):
    table, slope = parts
    return total + sum(
      slope[n] * take(table[n], index) for n in range(some)
    ), None

  parts = lead(value), lead(gradient)
  total, _ = jax.lax.scan(add, jnp.zeros(index.shape), parts)
  return total.reshape(shape)


def most(limit: int, whole: int) -> int:
  """The largest divisor of `whole` that is at most `limit`."""
  return max(n for n in range(1, max(1, limit) + 1) if whole % n == 0)


def to_value(samples: Samples, gradient: Array) -> Array:
  """What the corners give back to the cells they read: [N, H, W, G, C]."""
  return jax.lax.platform_dependent(
    samples, gradient, cpu=unscattered, default=scattered
  )


def unscattered(samples: Samples, gradient: Array) -> Array:
  """Without the scatter, slow on a CPU, unless samples go far on a large map."""
  if gradient.shape[1] * gradient.shape[2] <= CPU_DENSE:
    return gathered(samples, gradient)
  reach = round(len(samples.m) ** 0.5) // 2 + 1  # of less than a cell's offset

  def near(reach):
    held = lambda x: ((x >= -reach) & (x < reach)).all()
    return held(samples.y) & held(samples.x)

  ways = [
    functools.partial(shifted, reach=reach),
    functools.partial(shifted, reach=reach + 2),
    scattered,
  ]
  way = jnp.where(near(reach), 0, jnp.where(near(reach + 2), 1, 2))
  return jax.lax.switch(way, ways, samples, gradient)


def gathered(samples: Samples, gradient: Array) -> Array:
  """Every cell looks at all."""
  n, height, width, groups, channels = gradient.shape
  out = jnp.einsum(
    'ngok,nogc->nkgc',
    matrix(samples, height, width),
    gradient.reshape(n, -1, groups, channels),
    precision=EXACT,
  )
  return out.reshape(gradient.shape)


def scattered(samples: Samples, gradient: Array) -> Array:
  """Every corner adds to its cell."""
  n, height, width, groups, channels = gradient.shape
  table = jnp.zeros((n * (height + 4) * (width + 4) * groups, channels))
  table = table.at[corner_rows(samples, gradient.shape)].add(
    samples.weights()[..., None] * gradient, mode='promise_in_bounds'
  )
  table = table.reshape(n, height + 4, width + 4, groups, channels)
  return table[:, 2:-2, 2:-2]


def shifted(samples: Samples, gradient: Array, reach: int) -> Array:
  """Every cell looks at those up to `reach` away, if no sample goes further."""
  shifts = np.arange(-reach, reach + 1)
  _, height, width, _, _ = gradient.shape
  pad = lambda x: jnp.pad(
    x, ((0, 0), (reach, reach), (reach, reach)) + ((0, 0),) * (x.ndim - 3)
  )
  gradient, samples = pad(gradient), jax.tree.map(jax.vmap(pad), samples)
  wy = samples.m * tents(samples.y, samples.fy, shifts)
  wx = tents(samples.x, samples.fx, shifts)

  def read(wy):
    """Of every cell, how much it reads in one row: [shifts, N, H, W, G]."""
    return sum(wy[p] * wx[:, p] for p in range(len(wy)))

  # A loop of its own, so that neither what it reads nor what it makes is
  # computed again for every shift and channel.
  weights = jax.lax.map(read, wy)
  total = 0.0
  for i, dy in enumerate(shifts):
    for j, dx in enumerate(shifts):
      cells = np.s_[
        :, reach - dy : reach - dy + height, reach - dx : reach - dx + width
      ]
      total += weights[i, j][cells][..., None] * gradient[cells]
  return total


IMPLS = {
  'corners': corners,
  'packed': packed,
  'scan': scan,
  'onehot': onehot,
}
