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

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import placement
from m3i_jax.models.sampling import (
  Samples,
  beside,
  cells,
  corner_rows,
  padded,
  rows,
  take,
)

Array = jax.Array
EXACT = jax.lax.Precision.HIGHEST
TPU_DENSE = 24 * 24  # cells; larger maps make no matrix
CHUNK = 2**29  # bytes that a form spreads pictures out to
CPU_BLOCK = 2**14  # cells times groups whose gradient stays in the cache


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
  centred = dilation * (kernel_size - 1) % 2 == 0
  if not centred or (remove_center and kernel_size % 2 == 0):
    raise ValueError(
      f'dcnv3: kernel_size={kernel_size}, dilation={dilation}, remove_center='
      f'{remove_center} have no middle: choose an odd kernel_size'
    )
  if impl != 'auto' and impl not in IMPLS:
    raise ValueError(f'dcnv3: impl={impl!r}: auto, {", ".join(IMPLS)}')
  impl = choice(height * width) if impl == 'auto' else impl
  start = grid(kernel_size, dilation, remove_center)

  def sample(value, offset, modulation):
    places = offset_scale * (start + offset.astype(jnp.float32))
    samples = Samples.at(places, modulation, height, width)
    return IMPLS[impl](value, samples).astype(value.dtype)

  few = functools.partial(some_images, sample, impl, points)
  own = placement.on_own_rows(few, n, (3, groups))
  return own(value, offset, modulation)


def some_images(sample, impl: str, points: int, value: Array, *told) -> Array:
  """`sample` of so many pictures at a time that a form takes CHUNK bytes.

  Above that, each chunk is computed again for the gradient.
  """
  _, height, width, groups, channels = value.shape
  each = groups * height * width * {
    'corners': 4 * channels,
    'packed': 4 * channels * points * value.dtype.itemsize,
    'scan': 4 * channels * value.dtype.itemsize,
    'onehot': 4 * height * width,
  }[impl]
  chunk = most(min(CHUNK // each, len(value)), len(value))
  if chunk == len(value):
    return sample(value, *told)
  chunks = [x.reshape(-1, chunk, *x.shape[1:]) for x in (value, *told)]
  out = jax.lax.map(jax.checkpoint(lambda x: sample(*x)), chunks)
  return out.reshape(value.shape)


def choice(cells: int) -> str:
  """The formulation for a map of so many cells on this platform."""
  if placement.platform() != 'tpu':
    return 'corners'
  return 'onehot' if cells <= TPU_DENSE else 'packed'


def grid(kernel_size: int, dilation: int, remove_center: bool) -> np.ndarray:
  """The places before they move: float32 [P, 2], (x, y), x slow."""
  centre = dilation * (kernel_size - 1) // 2
  steps = np.float32(dilation * np.arange(kernel_size) - centre)
  places = np.stack(np.meshgrid(steps, steps, indexing='ij'), -1)
  places = places.reshape(-1, 2)
  return np.delete(places, len(places) // 2, 0) if remove_center else places


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
  if placement.platform() == 'cpu':
    out = blockwise(value, s, gradient)
  else:
    out = slopes(value, s, gradient)
  none = np.zeros(s.y.shape, jax.dtypes.float0)
  return out[0].astype(value.dtype), Samples(none, none, *out[1:])


corners.defvjp(_corners_forward, _corners_backward)


def blockwise(value: Array, s: Samples, gradient: Array) -> list[Array]:
  """`slopes`, some groups of one image at a time."""
  _, height, width, groups, _ = value.shape
  some = most(CPU_BLOCK // (height * width), groups)

  def split(x, n):
    """N, the axis n, and parts of G, three further, become the first two."""
    x = x.reshape(*x.shape[: n + 3], -1, some, *x.shape[n + 4 :])
    return jnp.moveaxis(x, (n, n + 3), (0, 1))

  def join(x, n):
    x = jnp.moveaxis(x, (0, 1), (n, n + 3))
    return x.reshape(*x.shape[: n + 3], groups, *x.shape[n + 5 :])

  def part(value, s, gradient):
    s = jax.tree.map(lambda x: x[:, None], s)
    first, *rest = slopes(value[None], s, gradient[None])
    return [first[0], *(x[:, 0] for x in rest)]

  image = lambda parts: jax.lax.map(lambda x: part(*x), parts)
  points = jax.tree.map(lambda x: split(x, 1), s)
  out = jax.lax.map(image, (split(value, 0), points, split(gradient, 0)))
  return [join(x, int(k > 0)) for k, x in enumerate(out)]


def slopes(value: Array, s: Samples, gradient: Array) -> tuple[Array, ...]:
  """Of <gradient, corners(value, s)>, to value, fy, fx and m."""
  a, b, c, d = dots(padded(value), corner_rows(s, value.shape), gradient)
  gy, gx = (1 - s.fy, s.fy), (1 - s.fx, s.fx)
  dm = gy[0] * (gx[0] * a + gx[1] * b) + gy[1] * (gx[0] * c + gx[1] * d)
  dy = s.m * (gx[0] * (c - a) + gx[1] * (d - b))
  dx = s.m * (gy[0] * (b - a) + gy[1] * (d - c))
  return scattered(s, gradient), dy, dx, dm


def dots(value: Array, index: Array, gradient: Array) -> Array:
  """<gradient, v> at every corner: [4, P, N, H, W, G]."""
  channels = value.shape[-1]
  # Some channels at a time fuse into one loop over the corners; the scan keeps
  # what is before and after out of it.
  some = most(min(8, channels // 2), channels)
  lead = lambda x: jnp.moveaxis(x, -1, 0).reshape(-1, some, x.size // channels)
  flat = index.reshape(-1, gradient.size // channels)

  def add(total, parts):
    return total + sum(
      g * take(v, flat) for v, g in zip(*parts, strict=True)
    ), None

  parts = lead(value), lead(gradient)
  return jax.lax.scan(add, jnp.zeros(flat.shape), parts)[0].reshape(index.shape)


def most(limit: int, whole: int) -> int:
  """The largest divisor of `whole` that is at most `limit`."""
  return max(n for n in range(1, max(1, limit) + 1) if whole % n == 0)


def scattered(samples: Samples, gradient: Array) -> Array:
  """What the corners give back to the cells they read: [N, H, W, G, C].

  Every place adds a window of four cells, point after point.
  """
  windows = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(4, 5, 6),
    inserted_window_dims=(0, 3),
    scatter_dims_to_operand_dims=(0, 1, 2, 3),
  )

  def add(table, point):
    at = jnp.broadcast_arrays(*cells(point, gradient.shape))
    at = jnp.stack(at, -1)
    weights = jnp.moveaxis(point.weights(), 0, -1)
    weights = weights.reshape(*weights.shape[:-1], 2, 2, 1)
    return jax.lax.scatter_add(
      table, at, weights * gradient[..., None, None, :], windows,
      mode='promise_in_bounds',
    ), None  # fmt: skip

  table, _ = jax.lax.scan(add, padded(jnp.zeros_like(gradient)), samples)
  return table[:, 2:-2, 2:-2]


IMPLS = {
  'corners': corners,
  'packed': packed,
  'scan': scan,
  'onehot': onehot,
}
