"""What a ViT may have beside M3I's: layer scale, pooled vectors, classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from m3i_jax.errors import UserError
from m3i_jax.models import layers, pooling, vit
from tests import golden_models
from tests import numpy_transformer as reference
from tests.models.test_vit import GOLDEN, from_timm

KEY = jax.random.key(0)
SMALL = dict(
  width=16, depth=2, heads=4, hidden=24, patch=8, positions='learned',
  final_norm=True, activation='gelu_tanh',
)  # fmt: skip
SCALED = SMALL | dict(layer_scale=0.5, eps=1e-3, pooling='cls', num_classes=5)
SIGLIP = SMALL | dict(class_token=False, pooling='map')


def run(fields, params, *args):
  return jax.jit(vit.ViT(**fields).apply)({'params': params}, *args)


def shapes(fields, image):
  start = jax.eval_shape(vit.ViT(**fields).init, KEY, image)['params']
  return jax.tree.map(lambda x: x.shape, start)


@pytest.mark.parametrize(
  'name,fields', [('scaled_vit', SCALED), ('siglip', SIGLIP)]
)
def test_golden_outputs_of_timm_and_siglip(name, fields):
  """Float32 against float64: 3e-6 of values up to 3."""
  params, golden = golden_models.load(name)
  assert shapes(fields, golden['input']) == jax.tree.map(np.shape, params)
  found = run(fields, params, golden['input'])
  tokens = found['tokens']
  if fields.get('class_token', True):
    tokens = np.concatenate([found['cls'][:, None], tokens], axis=1)
    np.testing.assert_array_equal(found['pooled'], found['cls'])
  np.testing.assert_allclose(tokens, golden['tokens'], rtol=0, atol=3e-6)
  for output in {'pooled', 'logits'} & set(golden):
    np.testing.assert_allclose(
      found[output], golden[output], rtol=0, atol=3e-6
    )


@pytest.mark.parametrize(
  'name,how',
  [
    ('timm_vit', dict(pooling='cls', final_norm=True)),
    ('timm_vit_avg', dict(pooling='mean', class_token=False)),
  ],
)
def test_golden_logits_of_timm(name, how):
  """As `test_vit` has them, which does without the heads."""
  with np.load(GOLDEN / f'{name}.npz') as file:
    golden = dict(file)
  weights = {k.removeprefix('weights/'): golden[k] for k in golden if '/' in k}
  get = lambda layer, last: weights[f'{layer}.{last}']
  params = from_timm(weights) | {
    'head': {'kernel': get('head', 'weight').T, 'bias': get('head', 'bias')}
  }
  if how['pooling'] == 'mean':
    params['fc_norm'] = {
      'scale': get('fc_norm', 'weight'), 'bias': get('fc_norm', 'bias')
    }  # fmt: skip
  fields = how | dict(
    width=48, depth=2, heads=4, hidden=192, patch=8, positions='learned',
    num_classes=10,
  )  # fmt: skip
  found = run(fields, params, golden['input'])
  for output in ('pooled', 'logits'):
    np.testing.assert_allclose(
      found[output], golden[output], rtol=0, atol=2e-5
    )


def test_the_mean_of_normed_tokens_has_no_norm_of_its_own():
  params, golden = golden_models.load('scaled_vit')
  del params['head']
  fields = SCALED | dict(pooling='mean', num_classes=0)
  assert shapes(fields, golden['input']) == jax.tree.map(np.shape, params)
  found = run(fields, params, golden['input'])
  mean = golden['tokens'][:, 1:].mean(1)  # without the class token
  np.testing.assert_allclose(found['pooled'], mean, rtol=0, atol=1e-5)
  assert set(found) == {'tokens', 'cls', 'pooled'}


def test_layer_scale_starts_where_it_is_told():
  fields = SCALED | dict(layer_scale=0.25)
  image = np.zeros((1, 16, 16, 3), np.float32)
  blocks = jax.jit(vit.ViT(**fields).init)(KEY, image)['params']['blocks']
  for name in ('ls1', 'ls2'):
    np.testing.assert_array_equal(
      blocks['layers'][name]['gamma'], np.full((2, 16), 0.25)
    )


def test_the_defaults_have_no_further_parameters():
  image = np.zeros((1, 16, 16, 3), np.float32)
  plain = dict(width=16, depth=1, heads=2, hidden=24, patch=8)
  names = golden_models.paths(shapes(plain, image))
  layer = {'norm1/scale', 'norm1/bias', 'norm2/scale', 'norm2/bias'} | {
    f'{name}/{leaf}'
    for name in ('attn/qkv', 'attn/proj', 'mlp/fc1', 'mlp/fc2')
    for leaf in ('kernel', 'bias')
  }
  assert names == {f'blocks/layers/{name}' for name in layer} | {
    'cls_token', 'patch_embed/proj/kernel', 'patch_embed/proj/bias'
  }  # fmt: skip
  model = vit.ViT(**plain)
  assert model.stride == 8 and not model.whole


@pytest.mark.parametrize('fields', [SCALED, SIGLIP | dict(num_classes=3)])
def test_every_parameter_has_a_gradient(fields):
  model, rng = vit.ViT(**fields), np.random.default_rng(0)
  image = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
  params = reference.perturbed(jax.jit(model.init)(KEY, image)['params'])
  loss = lambda p: jnp.sin(model.apply({'params': p}, image)['logits']).sum()
  gradient = jax.jit(jax.grad(loss))(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-6, path


@pytest.mark.parametrize('dtype,bound', [(jnp.bfloat16, 0.03), ('mixed', 0.01)])
@pytest.mark.parametrize(
  'name,fields', [('scaled_vit', SCALED), ('siglip', SIGLIP)]
)
def test_half_precision_is_close(dtype, bound, name, fields):
  """Norm of the difference, relative."""
  params, golden = golden_models.load(name)
  found = run(fields | {'dtype': dtype}, params, golden['input'])
  last = 'logits' if 'logits' in found else 'pooled'
  full = last == 'logits' or dtype == 'mixed'
  assert found[last].dtype == (jnp.float32 if full else dtype)
  assert 1e-5 < golden_models.relative(found[last], golden[last]) < bound


def test_attention_by_a_probe_in_numpy():
  """Of any number of tokens, one vector."""
  rng = np.random.default_rng(0)
  tokens = rng.normal(size=(2, 7, 8)).astype(np.float32)
  module = pooling.ProbePool(2, 12, eps=1e-2, activation='gelu')
  params = reference.perturbed(module.init(KEY, tokens)['params'])
  assert set(params) == {'probe', 'q', 'kv', 'proj', 'norm', 'mlp'}
  found = module.apply({'params': params}, tokens)
  for x, y in zip(tokens, found, strict=True):
    k, v = np.split(reference.linear(x, params['kv']), 2, axis=-1)
    q = reference.linear(params['probe'][0], params['q'])
    wanted = reference.linear(reference.attend(q, k, v, 2), params['proj'])[0]
    wanted = wanted + reference.mlp(
      reference.norm(wanted, params['norm'], 1e-2), params['mlp']
    )
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize('name', layers.ACTIVATIONS)
def test_activations(name):
  x = np.linspace(-8, 8, 1001, dtype=np.float32)
  y = np.float64(x)
  exact = {
    'gelu': lambda: y * special.ndtr(y),
    'gelu_tanh': lambda: 0.5 * y * (
      1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))
    ),
    'quick_gelu': lambda: y * special.expit(1.702 * y),
    'relu': lambda: np.maximum(y, 0),
  }[name]()  # fmt: skip
  act = layers.ACTIVATIONS[name]
  np.testing.assert_allclose(act(x), exact, rtol=0, atol=1e-6)
  half = act(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(half), exact, rtol=0, atol=0.04)


@pytest.mark.parametrize(
  'fields,told',
  [
    (dict(num_classes=3), 'config.model.num_classes'),
    (dict(pooling='cls', class_token=False), "pooling='cls'"),
    (dict(pooling='max'), "pooling='max'"),
  ],
)
def test_heads_that_cannot_be_are_told(fields, told):
  image = np.zeros((1, 16, 16, 3), np.float32)
  with pytest.raises(UserError, match=told):
    shapes(SMALL | fields, image)


@functools.cache
def count(**fields):
  side = fields.pop('side')
  found = shapes(fields, jnp.zeros((1, side, side, 3)))
  leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, tuple))
  return sum(int(np.prod(x)) for x in leaves)


def test_parameter_counts_are_timms():
  """timm 1.0.31: vit_base_patch16_siglip_224, vit_small_patch14_dinov2."""
  sizes = dict(width=768, depth=12, heads=12, hidden=3072, patch=16)
  siglip = dict(positions='learned', final_norm=True, class_token=False,
                pooling='map')  # fmt: skip
  assert count(**sizes, **siglip, side=224) == 92_884_224
  sizes = dict(width=384, depth=12, heads=6, hidden=1536, patch=14)
  dino = dict(positions='learned', final_norm=True, layer_scale=1e-5)
  assert count(**sizes, **dino, side=518) == 22_056_192
