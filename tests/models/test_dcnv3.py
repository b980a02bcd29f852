"""DCNv3 against the reference's numbers and a form in loops."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import sharding
from m3i_jax.models import dcnv3 as module
from m3i_jax.models.dcnv3 import IMPLS, dcnv3

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden/dcnv3.npz'
NAMES = 'value', 'offset', 'modulation'
every_impl = pytest.mark.parametrize('impl', IMPLS)


def by_loops(value, offset, modulation, cotangent, kernel_size, dilation=1,
             offset_scale=1.0, remove_center=False):  # fmt: skip
  """(result, gradients to the three inputs) in float64, sample by sample."""
  value, offset, modulation = map(np.float64, (value, offset, modulation))
  n, height, width, groups, _ = value.shape
  c = dilation * (kernel_size - 1) // 2
  grid = [
    (i * dilation - c, j * dilation - c)
    for i in range(kernel_size) for j in range(kernel_size)
    if not (remove_center and i == j == kernel_size // 2)
  ]  # fmt: skip
  out = np.zeros_like(value)
  slopes = [np.zeros_like(x) for x in (value, offset, modulation)]
  for cell in np.ndindex(n, height, width, groups):
    b, row, column, g = cell
    for p, (gx, gy) in enumerate(grid):
      x = column + offset_scale * (gx + offset[*cell, p, 0])
      y = row + offset_scale * (gy + offset[*cell, p, 1])
      m, up = modulation[*cell, p], cotangent[cell]
      x0, y0 = math.floor(x), math.floor(y)
      for yi, wy, sy in ((y0, 1 - (y - y0), -1), (y0 + 1, y - y0, 1)):
        for xi, wx, sx in ((x0, 1 - (x - x0), -1), (x0 + 1, x - x0, 1)):
          if not (0 <= yi < height and 0 <= xi < width):
            continue
          v = value[b, yi, xi, g]
          out[cell] += m * wy * wx * v
          slopes[0][b, yi, xi, g] += m * wy * wx * up
          slope = m * offset_scale * (up @ v)
          slopes[1][*cell, p] += slope * sx * wy, slope * sy * wx
          slopes[2][*cell, p] += wy * wx * (up @ v)
  return out, slopes


def drawn(shape=(1, 4, 5, 2, 3), points=9, spread=0.8, seed=0):
  """value, offset, modulation and a cotangent, float32."""
  rng = np.random.default_rng(seed)
  draw = lambda *more: rng.normal(size=(*shape[:4], *more)).astype(np.float32)
  return (
    draw(shape[4]), np.float32(spread) * draw(points, 2), draw(points),
    draw(shape[4]),
  )  # fmt: skip


def with_gradients(*arrays, **settings):
  """(result, gradients), jitted."""
  *args, cotangent = map(jnp.asarray, arrays)

  @jax.jit
  def both(args, cotangent):
    out, pull = jax.vjp(lambda *args: dcnv3(*args, **settings), *args)
    return out, pull(cotangent)

  return both(args, cotangent)


def assert_same(got, want, forward=1e-5, backward=1e-4):
  np.testing.assert_allclose(got[0], want[0], rtol=0, atol=forward)
  for name, x, y in zip(NAMES, got[1], want[1], strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=backward, err_msg=name)


def golden(case):
  """(the four inputs, (result, gradients), settings)."""
  with np.load(GOLDEN, allow_pickle=False) as file:
    arrays = {
      k.removeprefix(f'case{case}_'): file[k]
      for k in file if k.startswith(f'case{case}_')
    }  # fmt: skip
  meta = json.loads(str(arrays['meta']))
  lead = *arrays['value'].shape[:3], meta['groups']
  tails = {'value': (-1,), 'offset': (-1, 2), 'modulation': (-1,)}
  fold = lambda k, of: arrays[k].reshape(*lead, *tails[of])
  inputs = [np.float32(fold(k, k)) for k in NAMES]
  inputs += [np.float32(fold('cotangent', 'value'))]
  want = fold('output', 'value'), [fold(f'grad_{k}', k) for k in NAMES]
  settings = {k: meta[k] for k in ('offset_scale', 'dilation', 'remove_center')}
  return inputs, want, settings | {'kernel_size': meta['kernel']}


@every_impl
@pytest.mark.parametrize('case', range(3))
def test_is_the_reference(case, impl):
  inputs, want, settings = golden(case)
  got = with_gradients(*inputs, impl=impl, **settings)
  assert_same(got, want, forward=2e-5)


@pytest.mark.parametrize('block', ['one group', 'all at once'])
def test_parts_of_the_gradient_are_the_whole(block, monkeypatch):
  inputs, want, settings = golden(0)
  if block == 'one group':
    monkeypatch.setattr(module, 'CPU_BLOCK', 1)
  else:  # as on other platforms
    monkeypatch.setattr(module, 'blockwise', module.slopes)
  got = with_gradients(*inputs, impl='corners', **settings)
  assert_same(got, want, forward=2e-5)


def test_loops_are_the_reference():
  inputs, want, settings = golden(1)
  assert_same(by_loops(*inputs, **settings), want, 2e-6, 1e-5)


VARIANTS = {
  'remove_center': ({'points': 8}, {'remove_center': True}),
  'dilation 2': ({}, {'dilation': 2}),
  'scale 2': ({}, {'offset_scale': 2.0}),
  'scale 1.5': ({'spread': 0.3}, {'offset_scale': 1.5}),
  'kernel 5': ({'points': 25}, {'kernel_size': 5}),
  'kernel 1': ({'points': 1}, {'kernel_size': 1}),
  'even kernel': ({'points': 4}, {'kernel_size': 2, 'dilation': 2}),
  'tall, one channel': ({'shape': (2, 7, 2, 1, 1)}, {}),
  'one cell': ({'shape': (2, 1, 1, 2, 2)}, {}),
  '16 channels': ({'shape': (1, 3, 4, 3, 16)}, {}),
  'far': ({'spread': 5.0}, {}),
  # Every sample between four cells where all derivatives jump.
  'zero, scale 2': ({'spread': 0.0}, {'offset_scale': 2.0}),
}


@pytest.mark.parametrize('variant,impl', [
  (variant, impl) for variant in VARIANTS for impl in IMPLS
  # `scan` reads as `packed` does.
  if impl != 'scan' or variant in ('far', 'zero, scale 2', 'one cell')
])  # fmt: skip
def test_is_the_loops(variant, impl):
  drawing, settings = VARIANTS[variant]
  settings = {'kernel_size': 3, **settings}
  inputs = drawn(**drawing)
  got = with_gradients(*inputs, impl=impl, **settings)
  assert_same(got, by_loops(*inputs, **settings))


@every_impl
def test_places_on_and_beyond_the_border(impl):
  value, offset, modulation, cotangent = drawn(spread=0.0)
  size = np.float32([5, 4])  # W, H
  # From the first cell and the middle point, these are absolute.
  edges = [-1, -0.5, size - 1, size - 0.5, size, 1e3, -1e3, 1e9]
  for p, place in enumerate(edges):
    offset[0, 0, 0, 0, p] = place - grid_of(p)
    offset[0, 0, 0, 1, p] = -1e9 if p % 2 else 1e30
  offset[0, 3, 4] = -offset[0, 0, 0]
  inputs = value, offset, modulation, cotangent
  got = with_gradients(*inputs, impl=impl, kernel_size=3)
  assert_same(got, by_loops(*inputs, kernel_size=3))
  # At -1 exactly nothing is read, but to the right there is the first cell.
  assert np.abs(got[1][1][0, 0, 0, 0, 0]).sum() == 0  # both axes at -1
  offset[0, 0, 0, 0, 0] = np.float32([0, -1]) - grid_of(0)
  slope = with_gradients(*inputs, impl=impl, kernel_size=3)[1][1]
  up = modulation[0, 0, 0, 0, 0] * (cotangent[0, 0, 0, 0] @ value[0, 0, 0, 0])
  np.testing.assert_allclose(slope[0, 0, 0, 0, 0], [0, up], atol=1e-5)


def grid_of(p):
  return np.float32([p // 3 - 1, p % 3 - 1])


@every_impl
def test_bfloat16(impl):
  """Values and results are rounded to 8 bits; places and sums are not."""
  value, offset, modulation, cotangent = drawn()
  value, cotangent = (jnp.bfloat16(x) for x in (value, cotangent))
  inputs = value, offset, modulation, cotangent
  got = with_gradients(*inputs, impl=impl, kernel_size=3)
  assert got[0].dtype == got[1][0].dtype == jnp.bfloat16
  assert got[1][1].dtype == got[1][2].dtype == jnp.float32
  want = by_loops(*map(np.float32, inputs), kernel_size=3)
  near = {'rtol': 2**-7, 'atol': 0.04}
  as32 = lambda x: np.asarray(x, np.float32)
  np.testing.assert_allclose(as32(got[0]), want[0], **near)
  for x, y in zip(got[1], want[1], strict=True):
    np.testing.assert_allclose(as32(x), y, **near)


def test_half_precision_places():
  """An offset in bfloat16 is what it says; its gradient has its type."""
  value, offset, modulation, cotangent = drawn()
  offset = jnp.bfloat16(offset)
  inputs = value, offset, modulation, cotangent
  got = with_gradients(*inputs, kernel_size=3)
  assert got[1][1].dtype == jnp.bfloat16
  want = by_loops(*map(np.float32, inputs), kernel_size=3)
  np.testing.assert_allclose(got[0], want[0], atol=1e-5)
  np.testing.assert_allclose(
    np.float32(got[1][1]), want[1][1], rtol=2**-8, atol=1e-4
  )


@every_impl
def test_under_vmap_scan_and_remat(impl):
  layers = [drawn(seed=seed) for seed in range(2)]
  stacked = [jnp.stack(arrays) for arrays in zip(*layers, strict=True)]
  want = [by_loops(*arrays, kernel_size=3) for arrays in layers]
  want = jax.tree.map(lambda *x: np.stack(x), *want)

  def one(value, offset, modulation, cotangent):
    op = jax.checkpoint(lambda *args: dcnv3(*args, kernel_size=3, impl=impl))
    out, pull = jax.vjp(op, value, offset, modulation)
    return out, list(pull(cotangent))

  assert_same(jax.jit(jax.vmap(one))(*stacked), want)
  scanned = jax.jit(
    lambda *args: jax.lax.scan(lambda _, x: (None, one(*x)), None, args)[1]
  )
  assert_same(scanned(*stacked), want)


@every_impl
def test_some_images_at_a_time(impl, monkeypatch):
  """6 pictures as 3 times 2: values, gradients, and the memory of 2."""
  inputs = drawn(shape=(6, 3, 4, 2, 2))
  whole = with_gradients(*inputs, kernel_size=3, impl=impl)
  each = dict(corners=4 * 2, packed=4 * 2 * 9 * 4, scan=4 * 2 * 4, onehot=48)
  monkeypatch.setattr(module, 'CHUNK', int(2.9 * 3 * 4 * 2 * each[impl]))
  program = jax.make_jaxpr(lambda *x: dcnv3(*x, kernel_size=3, impl=impl))
  assert '[3,2,3,4,2,2]' in str(program(*inputs[:3]))
  got = with_gradients(*inputs, kernel_size=3, impl=impl)
  assert_same(got, whole)


@every_impl
@pytest.mark.parametrize('shape', [(2, 4, 1), (2, 2, 2)])
def test_sharded_images_stay_where_they_are(impl, shape):
  mesh = sharding.make_mesh(*shape)
  inputs = drawn(shape=(8, 3, 4, 2, 2))
  want = by_loops(*inputs, kernel_size=3)
  placed = jax.device_put(inputs, sharding.batch_sharding(mesh))
  settings = {'kernel_size': 3, 'impl': impl}
  with jax.set_mesh(mesh):
    got = with_gradients(*placed, **settings)
    spec = got[1][0].sharding.spec
    assert spec[0] == ('replica', 'fsdp')
    assert ('tensor' in spec[1:]) == (shape[2] > 1)  # groups
    program = jax.jit(lambda *args: dcnv3(*args, **settings))
    text = program.lower(*placed[:3]).compile().as_text()
    # A batch that does not divide is computed whole.
    few = with_gradients(*(x[:3] for x in inputs), **settings)
  assert_same(got, want)
  np.testing.assert_allclose(few[0], want[0][:3], atol=1e-5)
  assert 'all-gather' not in text and 'all-reduce' not in text


@pytest.mark.parametrize('backend,cells,impl', [
  ('cpu', 36, 'corners'), ('gpu', 36, 'corners'),
  ('tpu', 24 * 24, 'onehot'), ('tpu', 48 * 48, 'packed'),
])  # fmt: skip
def test_auto(backend, cells, impl, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert module.choice(cells) == impl


def test_auto_is_the_default():
  inputs = drawn()
  got = with_gradients(*inputs, kernel_size=3)
  assert_same(got, by_loops(*inputs, kernel_size=3))
  assert list(IMPLS) == ['corners', 'packed', 'scan', 'onehot']


@pytest.mark.parametrize('change,message', [
  ({'impl': 'fast'}, r"impl='fast': auto, corners, packed, scan, onehot"),
  ({'kernel_size': 5}, r'kernel_size=5 needs offset \(1, 4, 5, 2, 25, 2\)'),
  ({'remove_center': True}, r'needs offset \(1, 4, 5, 2, 8, 2\)'),
])  # fmt: skip
def test_mistakes(change, message):
  arrays = drawn()[:3]
  with pytest.raises(ValueError, match=message):
    dcnv3(*arrays, **{'kernel_size': 3, **change})


@pytest.mark.parametrize('kernel_size,dilation,remove_center', [
  (2, 1, False), (4, 2, True),
])  # fmt: skip
def test_kernels_without_a_middle(kernel_size, dilation, remove_center):
  arrays = drawn(points=kernel_size**2 - remove_center)[:3]
  with pytest.raises(ValueError, match='choose an odd kernel_size'):
    dcnv3(*arrays, kernel_size=kernel_size, dilation=dilation,
          remove_center=remove_center)  # fmt: skip
