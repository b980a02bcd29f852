"""Position codes against SiameseIM's own and against a map through pixels."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import positions

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'relative_position.npz'

STATIC = ('grid', 'width')
relative_sincos = jax.jit(positions.relative_sincos, static_argnames=STATIC)
parts_of = jax.jit(positions.relative_sincos_parts, static_argnames=STATIC)
rows_columns = jax.jit(positions.relative_rows_columns, static_argnums=5)


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


def golden_arguments(golden, unit):
  """Boxes in `unit` [12, 2] (heights, widths), and flips."""
  unit = np.concatenate([unit, unit], axis=1)
  return (
    (golden['input_box_tlhw'] / unit).astype(np.float32),
    golden['input_flip'].astype(bool),
    (golden['target_box_tlhw'] / unit).astype(np.float32),
    golden['target_flip'].astype(bool),
  )


def random_views(rng, count):
  """Pictures' sizes and two crops of each, all in pixels."""
  size = rng.integers(40, 600, (count, 2))
  boxes, flips = [], []
  for _ in range(2):
    extent = rng.integers(size // 6, size + 1)
    corner = rng.integers(0, size - extent + 1)
    boxes.append(np.concatenate([corner, extent], axis=1))
    flips.append(rng.random(count) < 0.5)
  return size, boxes, flips


def through_pixels(size, boxes, flips, grid):
  """Rows, columns [g] of one target's cells: the picture is really cropped.

  An axis of a view is the list of where its pixels come from in the picture;
  it is linear, so two of its pixels say where any other place comes from.
  """
  answer = []
  for axis in range(2):
    origin = []
    for box, flip in zip(boxes, flips, strict=True):
      source = np.arange(size[axis]) + 0.5
      if flip and axis == 1:
        source = source[::-1]
      source = source[box[axis] : box[axis] + box[2 + axis]]
      slope = source[1] - source[0]
      origin.append((source[0] - 0.5 * slope, slope, len(source)))
    (start_x, slope_x, length_x), (start_y, slope_y, length_y) = origin
    cells = np.arange(grid)
    in_picture = start_y + slope_y * (cells + 0.5) * length_y / grid
    in_input = (in_picture - start_x) / slope_x
    answer.append(in_input * grid / length_x - 0.5)
  return answer


def reference_code(rows, columns, ratios, width):
  """The code of one pair in float64: [g * g, 2 D]."""
  frequency = np.array([1e4 ** (-4 * k / width) for k in range(width // 4)])
  code = []
  for row in rows:
    for column in columns:
      places = [row, column, *(10 * np.log(ratios))]
      waves = [f(x * frequency) for x in places for f in (np.sin, np.cos)]
      code.append(np.concatenate(waves))
  return np.array(code)


def test_golden_code_of_the_reference_implementation(golden):
  arguments = golden_arguments(golden, np.ones((12, 2)))
  code = relative_sincos(
    *arguments,
    golden['image_hw'][:, 1],
    grid=int(golden['grid']),
    width=int(golden['width']),
  )
  assert code.dtype == jnp.float32
  np.testing.assert_allclose(code, golden['code'], atol=1e-5, rtol=0)


def test_golden_code_from_fractions_of_the_picture(golden):
  code = relative_sincos(
    *golden_arguments(golden, golden['image_hw']), grid=4, width=32
  )
  np.testing.assert_allclose(code, golden['code'], atol=1e-5, rtol=0)


def test_200_pairs_lie_where_the_pixels_say():
  grid, width = 6, 16
  size, boxes, flips = random_views(np.random.default_rng(0), 200)
  arguments = (boxes[0], flips[0], boxes[1], flips[1], size[:, 1])
  rows, columns = map(np.asarray, rows_columns(*arguments, grid))
  code = np.asarray(relative_sincos(*arguments, grid=grid, width=width))
  assert {(a, b) for a, b in zip(*flips, strict=True)} == {
    (a, b) for a in (False, True) for b in (False, True)
  }
  for n in range(200):
    pair = [box[n] for box in boxes]
    expected = through_pixels(size[n], pair, [flip[n] for flip in flips], grid)
    # float32: six digits of the farthest cell, some 40 cells away.
    np.testing.assert_allclose(rows[n], expected[0], atol=2e-5)
    np.testing.assert_allclose(columns[n], expected[1], atol=2e-5)
    np.testing.assert_allclose(
      code[n],
      reference_code(*expected, pair[1][2:] / pair[0][2:], width),
      atol=2e-5,
    )


@pytest.mark.parametrize('flip', [False, True])
def test_a_view_seen_from_itself_has_the_static_table(flip):
  box, grid, width = np.array([0.1, 0.3, 0.4, 0.5]), 5, 24
  code = relative_sincos(box, flip, box, flip, grid=grid, width=width)
  table = positions.grid_sincos(grid, width)
  assert code.shape == (25, 48) and table.shape == (25, 24)
  np.testing.assert_allclose(code[:, :width], table, atol=1e-5)
  scale = np.tile(np.repeat([0.0, 1.0], width // 4), 2)
  np.testing.assert_array_equal(code[:, width:], np.tile(scale, (25, 1)))


def test_table_has_rows_first():
  grid, width = 3, 8
  expected = reference_code(range(grid), range(grid), np.ones(2), width)
  table = positions.grid_sincos(grid, width)
  np.testing.assert_allclose(table, expected[:, :width], atol=1e-6)


def test_parts_make_the_whole():
  grid, width = 4, 16
  size, boxes, flips = random_views(np.random.default_rng(1), 8)
  arguments = (boxes[0], flips[0], boxes[1], flips[1], size[:, 1])
  parts = parts_of(*arguments, grid=grid, width=width)
  rows, columns, scale = map(np.asarray, parts)
  assert [p.shape for p in parts] == [(8, 4, 8), (8, 4, 8), (8, 16)]
  code = np.asarray(relative_sincos(*arguments, grid=grid, width=width))
  for cell in range(grid**2):
    r, c = divmod(cell, grid)
    whole = np.concatenate([rows[:, r], columns[:, c], scale], axis=-1)
    np.testing.assert_array_equal(code[:, cell], whole)


def test_any_leading_axes_and_any_unit():
  _, boxes, flips = random_views(np.random.default_rng(2), 6)
  boxes = [(box / 600).astype(np.float32) for box in boxes]
  sizes = {'grid': 3, 'width': 8}
  flat = relative_sincos(boxes[0], flips[0], boxes[1], flips[1], 1.5, **sizes)
  x, y = (box.reshape(2, 3, 4) for box in boxes)
  f_x, f_y = (flip.reshape(2, 3) for flip in flips)
  nested = relative_sincos(x, f_x, y, f_y, 1.5, **sizes)
  assert nested.shape == (2, 3, 9, 16)
  np.testing.assert_allclose(nested.reshape(6, 9, 16), flat, atol=1e-6)
  half = relative_sincos(x / 2, f_x, y / 2, f_y, 0.75, **sizes)
  np.testing.assert_array_equal(half, nested)
