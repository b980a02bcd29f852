"""Masks against BEiT's generator in plain Python, mixing against NumPy."""

import functools
import math
import random

import jax
import numpy as np
import pytest

from m3i_jax import inputs
from m3i_jax.errors import UserError
from m3i_jax.inputs import Input

KEY = jax.random.key(0)
MIX = Input(images=2, mask=0.5, pattern='random')
SAMPLES = 2000

sample = jax.jit(Input.sample, static_argnums=(0, 2))


@functools.cache
def generator(make, grid):
  """One compilation for all counts."""
  return jax.jit(jax.vmap(lambda k, n: make(k, grid, n), (0, None)))


def masks(make, grid, count, seed=0):
  """bool [SAMPLES, g, g] of one of the generators."""
  keys = jax.random.split(jax.random.key(seed), SAMPLES)
  drawn = np.asarray(generator(make, grid)(keys, count))
  return drawn.reshape(SAMPLES, grid, grid)


def beit_mask(rng, grid, count, smallest):
  """BEiT's generator on lists, topped up to `count` cells: [g][g] of 0, 1."""
  mask = [[0] * grid for _ in range(grid)]
  covered = 0
  while covered < count:
    for _ in range(10):
      area = rng.uniform(smallest, count - covered)
      aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
      h = int(round(math.sqrt(area * aspect)))
      w = int(round(math.sqrt(area / aspect)))
      if h >= grid or w >= grid:
        continue
      top, left = rng.randint(0, grid - h), rng.randint(0, grid - w)
      cells = [(top + r, left + c) for r in range(h) for c in range(w)]
      new = sum(1 - mask[r][c] for r, c in cells)
      if 0 < new <= count - covered:
        break
    else:
      break
    for r, c in cells:
      mask[r][c] = 1
    covered += new
  free = [(r, c) for r in range(grid) for c in range(grid) if not mask[r][c]]
  for r, c in rng.sample(free, count - covered):
    mask[r][c] = 1
  return mask


def agreement(mask):
  """Share of equal neighbours in each mask [n, g, g]: [n]."""
  across = mask[:, :, 1:] == mask[:, :, :-1]
  down = mask[:, 1:] == mask[:, :-1]
  return (across.mean((1, 2)) + down.mean((1, 2))) / 2


def images(batch, side, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch, side, side, 3)).astype(np.float32)


def spread(mask, patch):
  """bool [B, L] -> [B, S, S, 1]."""
  g = math.isqrt(mask.shape[1])
  square = np.asarray(mask).reshape(-1, g, g)
  return np.kron(square, np.ones((1, patch, patch), bool))[..., None]


@pytest.mark.parametrize('make', [inputs.block_mask, inputs.random_mask])
@pytest.mark.parametrize('grid', [4, 6, 8, 12, 14])
def test_masks_have_exactly_the_count(make, grid):
  for ratio in (0.5, 0.6, 0.75):
    count = round(ratio * grid**2)
    drawn = masks(make, grid, count)
    assert drawn.dtype == bool
    np.testing.assert_array_equal(drawn.sum((1, 2)), count)
    assert len(np.unique(drawn[:64], axis=0)) > 40


def test_extreme_counts():
  for count in (0, 1, 15, 16):
    drawn = masks(inputs.block_mask, 4, count)
    np.testing.assert_array_equal(drawn.sum((1, 2)), count)


def test_blocks_gather_in_the_centre_as_measured():
  """What 2,000 masks of SiameseIM's code gave at g = 14 and K = 98."""
  drawn = masks(inputs.block_mask, 14, 98)
  # Two digits were noted: half of the last one, and four standard errors.
  assert agreement(drawn).mean() == pytest.approx(0.879, abs=0.003)
  p = drawn.mean(0)
  places = {
    'centre': (p[6:8, 6:8], 0.86),
    'edge': (np.concatenate([p[0, 6:8], p[13, 6:8], p[6:8, 0], p[6:8, 13]]),
             0.29),
    'corner': (p[::13, ::13], 0.07),
  }  # fmt: skip
  for place, (found, expected) in places.items():
    error = math.sqrt(expected * (1 - expected) * 2 / SAMPLES)
    assert found.mean() == pytest.approx(expected, abs=0.005 + 4 * error), place


@pytest.mark.parametrize(
  'grid, count, smallest', [(14, 98, 16), (14, 118, 16), (6, 18, 3), (4, 8, 1)]
)
def test_blocks_are_those_of_beit(grid, count, smallest):
  rng = random.Random(1)
  expected = np.array(
    [beit_mask(rng, grid, count, smallest) for _ in range(SAMPLES)], bool
  )
  drawn = masks(inputs.block_mask, grid, count)
  # Five standard errors of a difference of two means.
  p, q = drawn.mean(0), expected.mean(0)
  error = np.sqrt((p * (1 - p) + q * (1 - q)) / SAMPLES) + 1e-3
  assert (np.abs(p - q) < 5 * error).all()
  a, b = agreement(drawn), agreement(expected)
  error = math.sqrt((a.var() + b.var()) / SAMPLES)
  assert abs(a.mean() - b.mean()) < 5 * error
  assert a.std() == pytest.approx(b.std(), rel=0.15)


def test_random_masks_are_uniform():
  drawn = masks(inputs.random_mask, 14, 98)
  assert np.abs(drawn.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(SAMPLES)
  # Of 195 other cells 97 are like this one.
  assert agreement(drawn).mean() == pytest.approx(97 / 195, abs=0.005)


@pytest.mark.parametrize('pattern', inputs.PATTERNS)
def test_after_the_swap_every_cell_has_even_odds(pattern):
  setting = Input(images=2, mask=0.5, pattern=pattern)
  mask = np.asarray(sample(setting, images(SAMPLES, 14), 1, KEY).mask)
  np.testing.assert_array_equal(mask.sum(1), 98)
  assert np.abs(mask.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(SAMPLES)


def test_without_mix_the_centre_is_hidden():
  x = sample(Input(mask=0.5), images(500, 14), 1, KEY)
  p = np.asarray(x.mask).mean(0).reshape(14, 14)
  assert p[6:8, 6:8].mean() < 0.2 and p[::13, ::13].mean() > 0.85


def test_neighbour_is_n_xor_1_and_its_own_inverse():
  x = np.arange(24).reshape(8, 3)
  other = np.asarray(inputs.neighbour(x))
  np.testing.assert_array_equal(other, x[np.arange(8) ^ 1])
  np.testing.assert_array_equal(inputs.neighbour(other), x)


def test_mix_takes_cells_of_the_first_where_the_mask_is_true():
  image = images(6, 16)
  x = sample(MIX, image, 4, KEY)
  m = spread(x.mask, 4)
  expected = m * image + (1 - m) * image[[1, 0, 3, 2, 5, 4]]
  np.testing.assert_array_equal(x.image, expected.astype(np.float32))
  assert not np.array_equal(x.mask[0], ~x.mask[1])  # each its own draw


@pytest.mark.parametrize('seed', range(3))
def test_cells_come_by_owner(seed):
  x = sample(MIX, images(4, 24), 4, jax.random.key(seed))
  assert x.cells.shape == (4, 36) and x.cells.dtype == np.int32
  first, second = MIX.slice(0, 36), MIX.slice(1, 36)
  for cells, mask in zip(np.asarray(x.cells), np.asarray(x.mask), strict=True):
    np.testing.assert_array_equal(cells[first], np.flatnonzero(mask))
    np.testing.assert_array_equal(cells[second], np.flatnonzero(~mask))


def test_a_pictures_mask_does_not_depend_on_the_batch():
  setting, image = Input(images=2, mask=0.5), images(8, 8)
  many = sample(setting, image, 2, KEY)
  few = sample(setting, image[:4], 2, KEY)
  for name in ('image', 'cells', 'mask'):
    np.testing.assert_array_equal(
      getattr(many, name)[:4], getattr(few, name), err_msg=name
    )
  other = sample(setting, image, 2, jax.random.key(1))
  assert not np.array_equal(many.mask, other.mask)


def test_no_mask():
  image = images(3, 8)
  x = sample(Input(), image, 4, KEY)
  assert x.cells is None and np.asarray(x.mask).all()
  assert x.mask.shape == (3, 4)
  np.testing.assert_array_equal(x.image, image)


@pytest.mark.parametrize('mask, owned', [(0.5, 18), (0.75, 9), (0.6, 14)])
def test_drop_leaves_the_visible_cells(mask, owned):
  setting, image = Input(mask=mask, pattern='random'), images(4, 12)
  x = sample(setting, image, 2, KEY)
  assert setting.owned(36) == owned
  assert x.cells.shape == (4, owned)
  for cells, visible in zip(x.cells, x.mask, strict=True):
    np.testing.assert_array_equal(cells, np.flatnonzero(visible))
  np.testing.assert_array_equal(x.image, image)


def test_a_mask_that_hides_nothing_is_told():
  with pytest.raises(UserError, match='mask=0.01 hides none of 16 patches'):
    Input(mask=0.01).owned(16)
  assert Input(mask=0.01).owned(100) == 99


def test_fill_hides_the_pixels():
  setting = Input(mask=0.75, pattern='random', hidden='fill')
  image = images(4, 12)
  x = sample(setting, image, 2, KEY)
  visible = spread(x.mask, 2)
  assert visible.sum() == 4 * 9 * 4
  np.testing.assert_array_equal(x.image, np.where(visible, image, 0))
  assert setting.slice(0, 36) == slice(0, 9)
  for cells, mask in zip(np.asarray(x.cells), np.asarray(x.mask), strict=True):
    np.testing.assert_array_equal(cells[:9], np.flatnonzero(mask))
    np.testing.assert_array_equal(cells[9:], np.flatnonzero(~mask))


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(images=2, mask=0.75), 'own half'),
    (dict(images=2), 'own half'),
    (dict(images=3), 'images=3'),
    (dict(mask=1.0), r'mask=1\.0'),
    (dict(mask=-0.1), r'mask=-0\.1'),
    (dict(pattern='stripes'), 'stripes'),
    (dict(hidden='blur'), 'blur'),
  ],
)
def test_mistakes_are_named(fields, message):
  with pytest.raises(UserError, match=message) as error:
    Input(**fields)
  assert '\n' not in str(error.value)


def test_an_odd_grid_cannot_be_shared():
  with pytest.raises(UserError, match='even number of patches, not 49'):
    Input(images=2, mask=0.5).sample(images(2, 14), 2, KEY)
