"""The ViT against timm: golden arrays, parameter counts, and timm itself."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.errors import UserError
from m3i_jax.models import backbone, layers, transformer, vit
from tests.numpy_transformer import perturbed

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SMALL = dict(width=32, depth=2, heads=4, hidden=64, patch=4)
KEY = jax.random.key(0)
# timm 1.0.31, all parameters without the classifier, at 224 pixels.
TIMM_PARAMETERS = {
  'Ti': 5_717_416 - 193_000,
  'S': 22_050_664 - 385_000,
  'B': 86_567_656 - 769_000,
  'L': 304_326_632 - 1_025_000,
  'H': 630_764_800,
  'g': 1_012_611_432 - 1_409_000,
}


def from_timm(weights):
  """timm's names and layouts -> the tree of `vit.ViT`, norm included."""
  get = lambda name: np.asarray(weights[name], np.float32)
  depth = 1 + max(int(n.split('.')[1]) for n in weights if 'blocks.' in n)
  linear = lambda n: {'kernel': get(f'{n}.weight').T, 'bias': get(f'{n}.bias')}
  norm = lambda n: {'scale': get(f'{n}.weight'), 'bias': get(f'{n}.bias')}

  def block(n):
    return {
      'norm1': norm(f'{n}.norm1'),
      'attn': {k: linear(f'{n}.attn.{k}') for k in ('qkv', 'proj')},
      'norm2': norm(f'{n}.norm2'),
      'mlp': {k: linear(f'{n}.mlp.{k}') for k in ('fc1', 'fc2')},
    }

  stacked = [block(f'blocks.{n}') for n in range(depth)]
  kernel = get('patch_embed.proj.weight').transpose(2, 3, 1, 0)
  tree = {
    'patch_embed': {
      'proj': {'kernel': kernel, 'bias': get('patch_embed.proj.bias')}
    },
    'blocks': {'layers': jax.tree.map(lambda *x: np.stack(x), *stacked)},
    'pos_embed': get('pos_embed'),
  }
  if 'norm.weight' in weights:
    tree['norm'] = norm('norm')
  if 'cls_token' in weights:
    tree['cls_token'] = get('cls_token')
  return tree


def sequence(features):
  """All tokens [B, N, D], the class token first if there is one."""
  tokens = np.asarray(features['tokens'])
  if 'cls' not in features:
    return tokens
  return np.concatenate([np.asarray(features['cls'])[:, None], tokens], axis=1)


def run(fields, params, *args, **kwargs):
  model = vit.ViT(**fields)
  apply = jax.jit(functools.partial(model.apply, **kwargs))
  return apply({'params': params}, *args)


def pixels(batch=2, side=16, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch, side, side, 3)).astype(np.float32)


@functools.cache
def small_params(**fields):
  model = vit.ViT(**SMALL | fields)
  return perturbed(jax.jit(model.init)(KEY, pixels())['params'])


@pytest.mark.parametrize('name', ['timm_vit', 'timm_vit_avg'])
def test_golden_activations_of_timm(name):
  with np.load(GOLDEN / f'{name}.npz') as file:
    golden = dict(file)
  weights = {k.removeprefix('weights/'): golden[k] for k in golden if '/' in k}
  params = from_timm(weights)
  fields = dict(width=48, heads=4, hidden=192, patch=8, positions='learned')
  fields['class_token'] = 'cls_token' in weights
  for depth in (1, 2):
    first = jax.tree.map(lambda x, n=depth: x[:n], params['blocks'])
    found = run(
      fields | {'depth': depth}, params | {'blocks': first}, golden['input']
    )
    np.testing.assert_allclose(
      sequence(found), golden[f'block{depth - 1}'], atol=5e-5, rtol=0
    )
  if 'norm' in params:
    fields |= {'depth': 2, 'final_norm': True}
    found = run(fields, params, golden['input'])
    pooled = np.asarray(found['cls'])
    np.testing.assert_allclose(
      sequence(found), golden['tokens'], atol=5e-5, rtol=0
    )
  else:
    mean = layers.layer_norm(found['tokens'].mean(1), 1e-6)
    pooled = mean * weights['fc_norm.weight'] + weights['fc_norm.bias']
  np.testing.assert_allclose(pooled, golden['pooled'], atol=5e-5, rtol=0)
  logits = pooled @ weights['head.weight'].T + weights['head.bias']
  np.testing.assert_allclose(logits, golden['logits'], atol=5e-5, rtol=0)


def test_timm_itself_if_it_is_here():
  torch = pytest.importorskip('torch')
  timm = pytest.importorskip('timm')
  torch.manual_seed(0)
  model = timm.create_model('vit_tiny_patch16_224', img_size=64).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.02 * torch.randn_like(parameter))
    image = pixels(side=64)
    nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    expected = model.forward_features(nchw).numpy()
  weights = {k: v.numpy() for k, v in model.state_dict().items()}
  fields = vit.VARIANTS['Ti'] | {'positions': 'learned', 'final_norm': True}
  found = sequence(run(fields, from_timm(weights), image))
  np.testing.assert_allclose(found, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize('variant', vit.VARIANTS)
def test_parameter_counts_are_timms(variant):
  def count(**fields):
    model = backbone('vit', variant, **fields)
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(model.init, KEY, image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))

  assert count(positions='learned', final_norm=True) == TIMM_PARAMETERS[variant]
  if variant == 'B':
    assert round(count() / 1e6, 2) == 85.65  # as M3I uses it


def test_unknown_names_are_named():
  with pytest.raises(UserError, match="variant='XXL'"):
    backbone('vit', 'XXL')
  with pytest.raises(UserError, match="name='vlt'"):
    backbone('vlt')


def test_scan_unrolled_and_remat_agree():
  image, params = pixels(), small_params()

  def outcome(**fields):
    model = vit.ViT(**SMALL | fields)

    def loss(params):
      tokens = model.apply({'params': params}, image)['tokens']
      return (jnp.sin(tokens) ** 2).sum(), tokens

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  gradient, tokens = outcome()
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
  for fields in ({'unroll': 8}, {'remat': 'full'}, {'remat': 'dots'}):
    found, same = outcome(**fields)
    np.testing.assert_allclose(same, tokens, atol=1e-5, rtol=0)
    for a, b in zip(*map(jax.tree.leaves, (found, gradient)), strict=True):
      np.testing.assert_allclose(a, b, atol=2e-6 * largest, rtol=0)


@pytest.mark.parametrize('class_token', [True, False])
def test_order_of_the_cells_is_the_order_of_the_tokens(class_token):
  fields = SMALL | {'class_token': class_token}
  params = small_params(class_token=class_token)
  whole = run(fields, params, pixels())
  order = np.stack([np.random.default_rng(n).permutation(16) for n in (0, 1)])
  found = run(fields, params, pixels(), order)
  assert found['tokens'].shape == (2, 16, 32)
  for n in range(2):
    np.testing.assert_allclose(
      found['tokens'][n], whole['tokens'][n, order[n]], atol=2e-5, rtol=0
    )
  if class_token:
    np.testing.assert_allclose(found['cls'], whole['cls'], atol=2e-5, rtol=0)


def test_cells_alone_are_a_smaller_picture():
  """Four cells of 16, put together as a picture with their positions."""
  fields = SMALL | {'positions': 'learned'}
  params = small_params(positions='learned')
  image, chosen = pixels(1), np.array([11, 2, 7, 4])
  found = run(fields, params, image, chosen[None].astype(np.int32))
  small = np.zeros((1, 8, 8, 3), np.float32)
  for n, cell in enumerate(chosen):
    (r, c), (y, x) = divmod(cell, 4), divmod(n, 2)
    small[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = image[
      :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4
    ]
  rows = np.concatenate([[0], chosen + 1])  # the class token's comes first
  table = {'pos_embed': params['pos_embed'][:, rows]}
  expected = run(fields, params | table, small)
  np.testing.assert_allclose(
    sequence(found), sequence(expected), atol=2e-5, rtol=0
  )


def test_hidden_cells_are_not_seen():
  image, cells = pixels(), np.tile(np.arange(5, dtype=np.int32), (2, 1))
  other = image.copy()
  other[:, 8:] += 1.0  # cells 8 to 15
  a, b = (run(SMALL, small_params(), x, cells) for x in (image, other))
  np.testing.assert_array_equal(sequence(a), sequence(b))


def test_bfloat16_is_close():
  full = sequence(run(SMALL, small_params(), pixels()))
  found = run(SMALL | {'dtype': jnp.bfloat16}, small_params(), pixels())
  assert found['tokens'].dtype == found['cls'].dtype == jnp.bfloat16
  half = sequence(found).astype(np.float32)
  assert np.linalg.norm(half - full) < 0.02 * np.linalg.norm(full)


def one_hot_branches(depth, width):
  """Blocks whose branches are constant: layer l adds to channels 2l, 2l+1."""
  model = transformer.Blocks(depth, 2, 4)
  start = jax.jit(model.init)(KEY, jnp.zeros((1, 2, width)))['params']
  params = jax.tree.map(np.zeros_like, start)
  for n in range(depth):
    params['layers']['attn']['proj']['bias'][n, 2 * n] = 1.0
    params['layers']['mlp']['fc2']['bias'][n, 2 * n + 1] = 1.0
  return params


@pytest.mark.parametrize('uniform', [False, True])
def test_drop_path_drops_whole_branches_of_a_sample(uniform):
  depth, width, batch = 5, 12, 4096
  params = one_hot_branches(depth, width)
  model = transformer.Blocks(depth, 2, 4, drop_path=0.4, uniform=uniform)
  apply = jax.jit(functools.partial(model.apply, train=True))
  start = jnp.zeros((batch, 2, width))
  added = np.asarray(apply({'params': params}, start, rngs={'drop_path': KEY}))
  np.testing.assert_array_equal(added[:, 0], added[:, 1])  # all tokens alike
  assert not added[:, 0, 10:].any()
  rates = [0.4] * 5 if uniform else [0.0, 0.1, 0.2, 0.3, 0.4]
  kept = []
  for channel in range(2 * depth):
    rate, values = rates[channel // 2], added[:, 0, channel]
    keep = values > 0
    np.testing.assert_allclose(values[keep], 1 / (1 - rate), rtol=1e-6)
    error = np.sqrt(rate * (1 - rate) / batch)
    assert abs(keep.mean() - (1 - rate)) <= 4 * error
    assert abs(values.mean() - 1) <= 4 * error / (1 - rate) + 1e-6
    if rate:
      kept.append(keep)
  correlation = np.corrcoef(kept) - np.eye(len(kept))
  assert np.abs(correlation).max() < 5 / np.sqrt(batch)
  whole = jax.jit(model.apply)({'params': params}, start)
  np.testing.assert_array_equal(np.asarray(whole)[..., :10], 1.0)


def test_drop_path_of_rate_0_is_identity():
  fields = SMALL | {'drop_path': 0.0}
  a = run(fields, small_params(), pixels(), train=True)
  b = run(fields, small_params(), pixels(), train=False)
  np.testing.assert_array_equal(sequence(a), sequence(b))


def test_drop_path_changes_training_alone():
  fields = SMALL | {'drop_path': 0.5}
  plain = sequence(run(SMALL, small_params(), pixels()))
  drop = functools.partial(run, fields, small_params(), pixels())
  np.testing.assert_array_equal(sequence(drop()), plain)
  a, b = (
    sequence(drop(train=True, rngs={'drop_path': jax.random.key(n)}))
    for n in (0, 1)
  )
  assert np.abs(a - plain).max() > 0.1 and np.abs(a - b).max() > 0.1
