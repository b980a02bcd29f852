"""LARS and layer-wise decay against forms written from their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import models
from m3i_jax.layerwise import scales
from m3i_jax.optim import Optimizer

STEPS = 20


def tree(seed, spread=1.0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: np.float32(rng.normal(size=shape) * spread)
  return {
    'encoder': {'blocks': {'fc': {'kernel': draw(3, 4, 5),
                                  'bias': draw(3, 5)}}},
    'head': {'kernel': draw(5, 2), 'bias': draw(2)},
  }  # fmt: skip


def lars_by_hand(weights, gradients, rates, decay, momentum, trust):
  """You et al. (2017), in float64, one layer at a time."""
  w, speed = weights.astype(np.float64), np.zeros(weights.shape)
  for gradient, rate in zip(gradients, rates, strict=True):
    step = gradient.astype(np.float64)
    if w.ndim > 1:  # no biases
      step = step + decay * w
      size, of = np.linalg.norm(step), np.linalg.norm(w)
      step = step * (trust * of / size if size > 0 and of > 0 else 1.0)
    speed = momentum * speed + step
    w = w - rate * speed
  return w


@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_lars_is_that_of_the_linear_protocols(decay):
  made = Optimizer(
    kind='lars', learning_rate=3.2, warmup=0.25, weight_decay=decay, clip=0.0,
  )  # fmt: skip
  transformation = made.build(STEPS)
  params = tree(0)
  gradients = [tree(n + 1, 0.1) for n in range(STEPS)]
  state, found = transformation.init(params), params
  for gradient in gradients:
    updates, state = transformation.update(gradient, state, found)
    found = jax.tree.map(jnp.add, found, updates)
  rates = [float(made.schedule(STEPS)(n)) for n in range(STEPS)]
  assert rates[5] == pytest.approx(3.2) and rates[0] == 0

  def check(path, start, *steps):
    last = found
    for key in path:
      last = last[key.key]
    by_layer = 'blocks' in [key.key for key in path]
    for layer in range(3) if by_layer else (slice(None),):
      wanted = lars_by_hand(
        start[layer], [s[layer] for s in steps], rates, decay, 0.9, 1e-3
      )
      np.testing.assert_allclose(last[layer], wanted, rtol=2e-5, atol=1e-6)

  jax.tree_util.tree_map_with_path(check, params, *gradients)


def test_a_layer_without_weights_or_gradient_is_not_scaled():
  made = Optimizer(
    kind='lars', learning_rate=1.0, warmup=0.0, weight_decay=0.0, clip=0.0
  )
  transformation = made.build(STEPS)
  params = {'head': {'kernel': np.zeros((2, 2), np.float32)}}
  gradient = {'head': {'kernel': np.ones((2, 2), np.float32)}}
  state = transformation.init(params)
  updates, state = transformation.update(gradient, state, params)
  np.testing.assert_allclose(updates['head']['kernel'], -1.0)
  zero = jax.tree.map(np.zeros_like, gradient)
  updates, _ = transformation.update(zero, transformation.init(params), params)
  np.testing.assert_array_equal(updates['head']['kernel'], 0.0)


def shapes(name, **fields):
  made = models.BACKBONES[name](
    **models.settled(name, '', models.TINY[name] | fields)
  )
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  init = lambda key, x: made.init(key, x)['params']
  return {'encoder': jax.eval_shape(init, jax.random.key(0), image)}


def test_a_plain_backbone_decays_as_in_beit():
  params = shapes('vit', depth=3, positions='learned')
  found = scales(params | {'head': {'kernel': np.zeros(2)}}, 0.65)
  encoder = found['encoder']
  np.testing.assert_allclose(
    jax.tree.leaves(encoder['blocks'])[0], [0.65**3, 0.65**2, 0.65], rtol=1e-6
  )
  for first in ('patch_embed', 'cls_token', 'pos_embed'):
    for x in jax.tree.leaves(encoder[first]):
      np.testing.assert_allclose(x, 0.65**4, rtol=1e-6)
  assert found['head']['kernel'] == 1
  late = scales({'encoder': params['encoder'] | {'norm': np.zeros(2)}}, 0.65)
  assert late['encoder']['norm'] == 1


def test_levels_decay_as_in_internimage():
  params = shapes('internimage', depths=(1, 2, 3, 1))
  encoder = scales(params, 0.9)['encoder']
  # The powers of its own table: blocks from the last to the first, then what
  # comes before them and between the levels.
  table = {
    'levels_0': [6], 'levels_1': [5, 4], 'levels_2': [3, 2, 1], 'levels_3': [0]
  }  # fmt: skip
  for level, powers in table.items():
    for x in jax.tree.leaves(encoder[level]['blocks']):
      np.testing.assert_allclose(x, 0.9 ** np.array(powers), rtol=1e-6)
  for level, power in (('levels_0', 5), ('levels_1', 3), ('levels_2', 0)):
    for x in jax.tree.leaves(encoder[level]['downsample']):
      np.testing.assert_allclose(x, 0.9**power, rtol=1e-6)
  for x in jax.tree.leaves(encoder['patch_embed']):
    np.testing.assert_allclose(x, 0.9**6, rtol=1e-6)
  for x in jax.tree.leaves(encoder['levels_3']['norm']):
    assert x == 1


def test_the_update_is_scaled_and_the_decay_too():
  params = {'encoder': {'blocks': {'fc': {'kernel': jnp.ones((3, 2, 2))}}},
            'head': {'kernel': jnp.ones((2, 2))}}  # fmt: skip
  gradient = jax.tree.map(jnp.ones_like, params)
  plain, layered = (
    Optimizer(learning_rate=1.0, warmup=0.0, clip=0.0, layer_decay=d).build(9)
    for d in (1.0, 0.5)
  )
  one, _ = plain.update(gradient, plain.init(params), params)
  two, _ = layered.update(gradient, layered.init(params), params)
  ratio = jax.tree.map(lambda a, b: a / b, two, one)
  np.testing.assert_allclose(
    ratio['encoder']['blocks']['fc']['kernel'][:, 0, 0], [1 / 8, 1 / 4, 1 / 2]
  )
  np.testing.assert_allclose(ratio['head']['kernel'], 1.0)
  # A run without layer-wise decay keeps the state that it always had.
  assert len(plain.init(params)) == 6


def test_a_linear_schedule():
  made = Optimizer(learning_rate=2.0, warmup=0.2, decay='linear').schedule(10)
  found = [float(made(n)) for n in range(11)]
  np.testing.assert_allclose(
    found, [0, 1, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25, 0], atol=1e-6
  )
