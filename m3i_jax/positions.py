"""Where a patch is, as sines and cosines: in its own view and in another's.

Section 3.4 of the paper adds position embeddings to the decoder's mask queries
"computed with respect to the left top origin of the input views", after
SiameseIM (Tao et al., 2022). A target view is another crop of the same picture,
perhaps mirrored, so its cells lie at fractional, possibly negative, rows and
columns of the input view's patch grid.
"""

import jax
import jax.numpy as jnp
import numpy as np


def sincos(x: jax.Array, width: int) -> jax.Array:
  """Sines, then cosines, of x at width / 2 frequencies 10000^(-2k / width).

  Args:
    x: positions [...], in patches.
    width: even.
  Returns:
    float32 [..., width].
  """
  count = width // 2
  frequency = 10000.0 ** (-np.arange(count) / count)
  angle = jnp.asarray(x, jnp.float32)[..., None] * frequency.astype(np.float32)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def grid_sincos(grid: int, width: int) -> jax.Array:
  """Fixed 2-D table of a view's own cells, rows first: float32 [L, D].

  MAE's table has the columns first; this is SiameseIM's order.
  """
  axis = sincos(jnp.arange(grid), width // 2)
  rows = jnp.repeat(axis, grid, axis=0)
  columns = jnp.tile(axis, (grid, 1))
  return jnp.concatenate([rows, columns], axis=-1)


def relative_rows_columns(
  input_box: jax.Array,
  input_flip: jax.Array,
  target_box: jax.Array,
  target_flip: jax.Array,
  image_width: jax.Array | float,
  grid: int,
) -> tuple[jax.Array, jax.Array]:
  """Rows and columns of a target view's cells in the input view's patch grid.

  Cell centres are mapped through both crops. Arguments as in
  `relative_sincos`; returns float32 rows [..., g] and columns [..., g], where
  cell (r, c) of the target lies at (rows[r], columns[c]); both may fall outside
  0..g-1.
  """
  top_x, left_x, height_x, width_x = _split(input_box)
  top_y, left_y, height_y, width_y = _split(target_box)
  same = (jnp.asarray(input_flip) == jnp.asarray(target_flip))[..., None]
  image_width = jnp.asarray(image_width, jnp.float32)[..., None]
  cell = jnp.arange(grid) + 0.5
  rows = height_y / height_x * cell + grid * (top_y - top_x) / height_x - 0.5
  # In a mirrored frame the target's columns run backwards from the far edge.
  shift = jnp.where(same, left_y - left_x, image_width - left_x - left_y)
  sign = jnp.where(same, 1.0, -1.0)
  columns = sign * width_y / width_x * cell + grid * shift / width_x - 0.5
  return rows, columns


def relative_sincos_parts(
  input_box: jax.Array,
  input_flip: jax.Array,
  target_box: jax.Array,
  target_flip: jax.Array,
  image_width: jax.Array | float = 1.0,
  *,
  grid: int,
  width: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The code of `relative_sincos` before it is spread over the grid.

  A linear map of the code is the sum of the maps of its parts, which are g
  times smaller: what the decoder uses.

  Returns:
    float32 rows [..., g, D/2], columns [..., g, D/2], scale [..., D].
  """
  rows, columns = relative_rows_columns(
    input_box, input_flip, target_box, target_flip, image_width, grid
  )
  ratio = jnp.asarray(target_box)[..., 2:] / jnp.asarray(input_box)[..., 2:]
  scale = sincos(10.0 * jnp.log(ratio), width // 2)
  return (
    sincos(rows, width // 2),
    sincos(columns, width // 2),
    scale.reshape(*scale.shape[:-2], width),
  )


def relative_sincos(
  input_box: jax.Array,
  input_flip: jax.Array,
  target_box: jax.Array,
  target_flip: jax.Array,
  image_width: jax.Array | float = 1.0,
  *,
  grid: int,
  width: int,
) -> jax.Array:
  """Position code of every cell of a target view, seen from the input view.

  Args:
    input_box: [..., 4] top, left, height, width of the input view's crop, in
      the picture's frame after its own mirroring; any one unit for all boxes.
    input_flip: bool [...], the picture was mirrored before the input crop.
    target_box: [..., 4] likewise for the target view.
    target_flip: bool [...].
    image_width: [...] width of the picture in the boxes' unit; 1 if the boxes
      are fractions of the picture.
    grid: g, cells along a side of either view.
    width: D, the decoder's width, a multiple of 4.
  Returns:
    float32 [..., L, 2 D]: sines and cosines of row (D/2), column (D/2), and of
    ten times the log ratio of heights (D/2) and of widths (D/2). Source:
    SiameseIM, section 3.2 and its released code, checked in the tests.
  """
  rows, columns, scale = relative_sincos_parts(
    input_box,
    input_flip,
    target_box,
    target_flip,
    image_width,
    grid=grid,
    width=width,
  )
  shape = (*rows.shape[:-2], grid, grid)
  code = jnp.concatenate(
    [
      jnp.broadcast_to(rows[..., :, None, :], (*shape, width // 2)),
      jnp.broadcast_to(columns[..., None, :, :], (*shape, width // 2)),
      jnp.broadcast_to(scale[..., None, None, :], (*shape, width)),
    ],
    axis=-1,
  )
  return code.reshape(*shape[:-2], grid * grid, 2 * width)


def _split(box: jax.Array) -> list[jax.Array]:
  return jnp.split(jnp.asarray(box, jnp.float32), 4, axis=-1)
