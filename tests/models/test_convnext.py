"""ConvNeXt against timm: golden arrays, parameter counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.models import convnext, convolution, layers
from m3i_jax.models.convnext import ConvNeXt
from tests import golden_models

KEY = jax.random.key(0)
# As the golden network.
SMALL = dict(depths=(1, 2, 3, 1), dims=(8, 12, 16, 20))
# timm 1.0.31: convnext_tiny, small, base, large, xlarge; 1000 classes.
TIMM_PARAMETERS = {
  'T': 28_589_128,
  'S': 50_223_688,
  'B': 88_591_464,
  'L': 197_767_336,
  'XL': 350_196_968,
}


def pixels(batch=2, side=64):
  rng = np.random.default_rng(1)
  return rng.normal(size=(batch, side, side, 3)).astype(np.float32)


@functools.cache
def small_params(fused=0, num_classes=0):
  """The golden network's, with what else the fields ask for."""
  params, _ = golden_models.load('convnext')
  if not num_classes:
    del params['norm'], params['head']
  if fused:
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 4
    params['fuse'] = {
      'x3': {'kernel': draw(16, fused), 'bias': draw(fused)},
      'x4': {'kernel': draw(20, 4 * fused), 'bias': draw(4 * fused)},
    }
  return params


def run(fields, params, *args):
  return jax.jit(ConvNeXt(**SMALL | fields).apply)({'params': params}, *args)


def test_golden_maps_and_logits_of_timm():
  """Float32 against timm in float64: 3e-6 of values up to 3."""
  params, golden = golden_models.load('convnext')
  found = run({'num_classes': 5}, params, golden['input'])
  for n, stage in enumerate(found['pyramid']):
    np.testing.assert_allclose(stage, golden[f'stage{n}'], rtol=0, atol=3e-6)
  np.testing.assert_allclose(
    found['logits'], golden['logits'], rtol=0, atol=3e-6
  )
  last = golden['stage3'].reshape(1, 4, 20)
  np.testing.assert_allclose(found['tokens'], last, rtol=0, atol=3e-6)


def test_parameters_are_those_of_the_golden_network():
  params, golden = golden_models.load('convnext')
  model = ConvNeXt(**SMALL, num_classes=5)
  start = jax.eval_shape(model.init, KEY, golden['input'])['params']
  shapes = functools.partial(jax.tree.map, np.shape)
  assert shapes(start) == shapes(params)


def test_the_start_is_timms():
  stage = convnext.Stage(16, False, (0.0,) * 3, 1e-6, 1, 'none', jnp.float32)
  start = jax.jit(stage.init, static_argnums=2)(KEY, np.zeros((1, 4, 4, 8)), 0)
  blocks = start['params']['blocks']
  np.testing.assert_allclose(blocks['gamma'], np.full((3, 16), 1e-6), rtol=1e-6)
  for part in (blocks['conv_dw'], blocks['mlp']['fc1']):
    kernel = np.asarray(part['kernel'])
    assert abs(kernel.std() / 0.02 - 1) < 0.1 and not part['bias'].any()
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # not one draw thrice


@pytest.mark.parametrize('variant', convnext.VARIANTS)
def test_parameter_counts_are_timms(variant):
  sizes = convnext.VARIANTS[variant]
  image = jnp.zeros((1, 32, 32, 3))

  def count(**fields):
    shapes = jax.eval_shape(ConvNeXt(**sizes, **fields).init, KEY, image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  assert count(num_classes=1000) == TIMM_PARAMETERS[variant]
  width = sizes['dims'][-1]
  norm, head = 2 * width, (width + 1) * 1000
  assert count() == TIMM_PARAMETERS[variant] - norm - head
  fuse = (width + 1) * 4 * 1024 + (width // 2 + 1) * 1024
  assert count(fused=1024) == count() + fuse


def test_what_an_encoder_says_of_itself():
  plain, fused = ConvNeXt(**SMALL), ConvNeXt(**SMALL, fused=24)
  assert (plain.width, plain.patch) == (20, 32)
  assert (fused.width, fused.patch) == (24, 16)
  for model in (plain, fused):
    assert (model.stride, model.depth) == (32, 1)
    assert model.whole and not model.class_token


@pytest.mark.parametrize('fused', [0, 24])
def test_tokens_and_their_order(fused):
  """The fused map is that of the two last stages."""
  fields, params = {'fused': fused}, small_params(fused=fused)
  whole = run(fields, params, pixels())
  shapes = [x.shape for x in whole['pyramid']]
  assert shapes == [(2, 16, 16, 8), (2, 8, 8, 12), (2, 4, 4, 16), (2, 2, 2, 20)]
  if fused:
    fuse = convolution.Fuse(fused)
    wanted = fuse.apply({'params': params['fuse']}, *whole['pyramid'][2:])
  else:
    wanted = whole['pyramid'][3]
  wanted = np.reshape(wanted, (2, -1, fused or 20))
  np.testing.assert_allclose(whole['tokens'], wanted, rtol=0, atol=2e-6)
  cells = np.random.default_rng(0).permuted(
    np.tile(np.arange(wanted.shape[1]), (2, 1)), axis=1
  )[:, :3]
  found = run(fields, params, pixels(), cells)['tokens']
  for n in range(2):
    np.testing.assert_allclose(
      found[n], wanted[n, cells[n]], rtol=0, atol=2e-6
    )


def test_every_parameter_has_a_gradient():
  """Through maps, tokens and logits, each of which the loss reads."""
  fields = {'fused': 24, 'num_classes': 5}
  model = ConvNeXt(**SMALL | fields)

  def loss(params):
    own = jax.tree.leaves(model.apply({'params': params}, pixels()))
    return sum(jnp.sin(x).sum() for x in own)

  gradient = jax.jit(jax.grad(loss))(small_params(**fields))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-4, path


@functools.cache
def stage_gradient(unroll=1, remat='none', dtype=jnp.float32):
  """Value and gradients of a loss of the third stage."""
  x = np.random.default_rng(3).normal(size=(2, 4, 4, 12)).astype(np.float32)
  stage = convnext.Stage(16, False, (0.0,) * 3, 1.0, unroll, remat, dtype)

  def loss(params):
    y = stage.apply({'params': params}, x.astype(layers.stream(dtype)), False)
    return jnp.sin(y.astype(jnp.float32)).sum()

  return jax.jit(jax.value_and_grad(loss))(small_params()['stages_2'])


@pytest.mark.parametrize('unroll,remat', [(8, 'full'), (2, 'dots')])
def test_scan_unrolled_and_remat_agree(unroll, remat):
  found, wanted = stage_gradient(unroll, remat), stage_gradient()
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(wanted[1]))
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize('dtype,bound', [(jnp.bfloat16, 0.03), ('mixed', 0.01)])
def test_half_precision_is_close(dtype, bound):
  """Norm of the difference of outputs and of gradients, relative."""
  params, golden = golden_models.load('convnext')
  own = run({'num_classes': 5, 'dtype': dtype}, params, golden['input'])
  assert own['tokens'].dtype == (jnp.float32 if dtype == 'mixed' else dtype)
  assert own['logits'].dtype == jnp.float32
  maps = [golden[f'stage{n}'] for n in range(4)]
  assert 1e-5 < golden_models.relative(list(own['pyramid']), maps) < bound
  assert golden_models.relative(own['logits'], golden['logits']) < bound
  gradient = stage_gradient(dtype=dtype)[1]
  assert {x.dtype for x in jax.tree.leaves(gradient)} == {np.dtype('float32')}
  error = golden_models.relative(gradient, stage_gradient()[1])
  assert 1e-5 < error < 2 * bound


@pytest.mark.parametrize('uniform', [False, True])
def test_drop_path_grows_over_the_blocks_of_all_stages(uniform):
  rates = ConvNeXt(**SMALL, drop_path=0.6, uniform=uniform).rates()
  grown = [(0.0,), (0.1, 0.2), (0.3, 0.4, 0.5), (0.6,)]
  for found, wanted in zip(rates, grown, strict=True):
    wanted = (0.6,) * len(wanted) if uniform else wanted
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_drop_path_drops_whole_branches_of_a_sample():
  """Each block's branch adds 1 where it is kept: counted over many samples."""
  batch = 2048
  stage = convnext.Stage(4, True, (0.2, 0.6), 1.0, 1, 'none', jnp.float32)
  x = jnp.zeros((batch, 2, 2, 4))
  params = jax.tree.map(np.zeros_like, stage.init(KEY, x, False)['params'])
  params['blocks']['gamma'] += 1.0
  for n in range(2):
    params['blocks']['mlp']['fc2']['bias'][n, n] = 1.0
  added = np.asarray(
    stage.apply({'params': params}, x, True, rngs={'drop_path': KEY})
  )
  assert (added == added[:, :1, :1]).all()  # whole samples
  for n, rate in enumerate((0.2, 0.6)):
    kept = added[:, 0, 0, n] > 0
    np.testing.assert_allclose(added[kept, 0, 0, n], 1 / (1 - rate), rtol=1e-6)
    error = np.sqrt(rate * (1 - rate) / batch)
    assert abs(kept.mean() - (1 - rate)) <= 4 * error
  both = np.corrcoef(added[:, 0, 0, 0], added[:, 0, 0, 1])[0, 1]
  assert abs(both) < 5 / np.sqrt(batch)
  whole = stage.apply({'params': params}, x, False)
  np.testing.assert_array_equal(whole[..., :2], 1.0)


def test_drop_path_changes_training_alone():
  params, golden = golden_models.load('convnext')
  fields = {'drop_path': 0.5, 'num_classes': 5}
  plain = run(fields, params, golden['input'])['logits']
  np.testing.assert_allclose(plain, golden['logits'], rtol=0, atol=1e-5)
  apply = jax.jit(
    lambda key: ConvNeXt(**SMALL | fields).apply(
      {'params': params}, golden['input'], train=True, rngs={'drop_path': key}
    )['logits']
  )
  a, b = apply(jax.random.key(0)), apply(jax.random.key(1))
  assert np.abs(a - plain).max() > 0.01 and np.abs(a - b).max() > 0.01
