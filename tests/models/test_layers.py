"""Layers against NumPy: products, GELU, norms, projections, the last layers."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import special

from m3i_jax import sharding
from m3i_jax.models import layers, transformer
from tests import numpy_transformer as reference

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 7)).astype(np.float32)
KERNEL = RNG.standard_normal((7, 3)).astype(np.float32)
COTANGENT = RNG.standard_normal((2, 5, 3)).astype(np.float32)


def rounded(x: np.ndarray) -> np.ndarray:
  return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def pull(dtype, x):
  y, back = jax.vjp(lambda x, k: layers.product(x, k, dtype), x, KERNEL)
  return y, *back(jnp.asarray(COTANGENT, y.dtype))


@pytest.mark.parametrize('dtype', [jnp.float32, 'mixed'])
def test_product_and_its_gradients(dtype):
  keep = rounded if dtype == 'mixed' else np.float64
  x, kernel, g = keep(X), keep(KERNEL), keep(COTANGENT)
  y, to_x, to_kernel = pull(dtype, X)
  assert y.dtype == to_x.dtype == to_kernel.dtype == jnp.float32
  np.testing.assert_allclose(y, x @ kernel, atol=5e-6)
  np.testing.assert_allclose(to_x, g @ kernel.T, atol=5e-6)
  np.testing.assert_allclose(
    to_kernel, np.einsum('bnd,bne->de', x, g), atol=5e-6
  )


def test_bfloat16_keeps_the_kernels_gradient_in_float32():
  y, to_x, to_kernel = pull(jnp.bfloat16, jnp.asarray(X, jnp.bfloat16))
  assert y.dtype == to_x.dtype == jnp.bfloat16
  assert to_kernel.dtype == jnp.float32
  expected = np.einsum('bnd,bne->de', rounded(X), rounded(COTANGENT))
  np.testing.assert_allclose(to_kernel, expected, atol=5e-6)


def test_gelu_is_exact():
  x = np.linspace(-8, 8, 1001, dtype=np.float32)
  exact = x * special.ndtr(x.astype(np.float64))
  # 1 + erf loses what is below one unit in the last place of 1.
  np.testing.assert_allclose(layers.gelu(x), exact, atol=1e-6)
  half = layers.gelu(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(np.float32), exact, atol=2e-2)


def test_a_block_in_mixed_precision_is_close_to_float32():
  x = RNG.standard_normal((2, 6, 16)).astype(np.float32)
  exact = transformer.Blocks(2, 4, 32)
  mixed = transformer.Blocks(2, 4, 32, dtype='mixed')
  params = exact.init(jax.random.key(0), x)
  loss = lambda net: lambda p: jnp.square(net.apply(p, x)).sum()
  for fine, coarse in (
    (exact.apply(params, x), mixed.apply(params, x)),
    (jax.grad(loss(exact))(params), jax.grad(loss(mixed))(params)),
  ):
    fine, coarse = (
      np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
      for tree in (fine, coarse)
    )
    assert coarse.dtype == np.float32
    error = np.linalg.norm(fine - coarse) / np.linalg.norm(fine)
    assert 1e-5 < error < 0.02


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, 'mixed'])
def test_a_product_with_the_kernels_other_axis(dtype):
  """x @ w.T for an embedding w: value and both gradients, in every dtype.

  Within the rounding of the operands, 2^-8 of the largest for bfloat16.
  """
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 3, 5), np.float32)
  w = rng.standard_normal((7, 5), np.float32)
  g = rng.standard_normal((2, 3, 7), np.float32)
  value, pull = jax.vjp(
    lambda x, w: layers.product(
      x.astype(layers.stream(dtype)), w, dtype, 1
    ).astype(jnp.float32),
    x,
    w,
  )
  wanted = x @ w.T, g @ w, np.einsum('abv,abd->vd', g, x)
  size = 1e-6 if dtype == jnp.float32 else 2**-6
  for got, right in zip((value, *pull(g)), wanted, strict=True):
    np.testing.assert_allclose(got, right, rtol=0, atol=size * right.max())


def normed(x, eps=1e-5):
  """float64, over all axes but the last, by the biased variance."""
  x = np.float64(x)
  axes = tuple(range(x.ndim - 1))
  return (x - x.mean(axes)) / np.sqrt(x.var(axes) + eps)


@pytest.mark.parametrize('shape', [(8, 5), (8, 3, 5)])
@pytest.mark.parametrize('affine', [True, False])
def test_batch_norm(shape, affine):
  x = np.float32(RNG.standard_normal(shape) * 3 + 2)
  module = layers.BatchNorm(affine=affine)
  params = module.init(jax.random.key(0), x).get('params', {})
  np.testing.assert_allclose(
    module.apply({'params': params}, x), normed(x), rtol=0, atol=2e-6
  )
  if affine:
    p = reference.perturbed(params)
    wanted = normed(x) * p['scale'] + p['bias']
    found = module.apply({'params': p}, x)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
  else:
    assert not params
  half = module.apply({'params': params}, jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


def test_batch_norm_is_that_of_all_devices():
  """A row a device: by its own statistics each would be zero."""
  x = np.float32(RNG.standard_normal((8, 5)) * 3 + 2)
  mesh = sharding.make_mesh(2, 4)
  norm = lambda x: layers.BatchNorm(affine=False).apply({}, x)
  pull = jax.jit(jax.value_and_grad(lambda x: jnp.sin(norm(x)).sum()))
  alone = jax.jit(norm)(x), pull(x)[1]
  with jax.set_mesh(mesh):
    split = sharding.put(x, sharding.batch_sharding(mesh), 8)
    assert len(split.sharding.device_set) == 8
    found = jax.jit(norm)(split), pull(split)[1]
  np.testing.assert_allclose(found[0], normed(x), rtol=0, atol=2e-6)
  for got, wanted in zip(found, alone, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize('norm', ['none', 'layer', 'batch'])
@pytest.mark.parametrize('cosine', [0, 4])
def test_projection(norm, cosine):
  """Layers with norms and activations between; DINO's last layer of cosines."""
  fields = dict(out=6, hidden=(7, 8), norm=norm, activation='relu')
  module = layers.Projection(**fields, cosine=cosine)
  x = np.float32(RNG.standard_normal((9, 5)))
  start = module.init(jax.random.key(0), x)['params']
  p = reference.perturbed(start, scale=0.3)
  found = module.apply({'params': p}, x)
  y = np.float64(x)
  for n in (1, 2):
    y = y @ p[f'fc{n}']['kernel'] + p[f'fc{n}'].get('bias', 0)
    if norm == 'batch':
      y = normed(y) * p[f'norm{n}']['scale'] + p[f'norm{n}']['bias']
    if norm == 'layer':
      y = reference.norm(y, p[f'norm{n}'], 1e-6)
    y = np.maximum(y, 0)
  y = reference.linear(y, p['fc3'])
  if cosine:
    unit = lambda a, axis: a / np.linalg.norm(a, axis=axis, keepdims=True)
    y = unit(y, -1) @ unit(np.float64(p['prototypes']), 0)
  assert found.dtype == np.float32 and found.shape == (9, 6)
  np.testing.assert_allclose(found, y, rtol=0, atol=1e-5)
  assert ('bias' in p['fc1']) == (norm != 'batch')


def test_projection_with_a_last_norm_has_no_last_bias():
  """MoCo v3: batch norm without affine at the end."""
  module = layers.Projection(6, (7,), 'batch', last_norm=True)
  x = np.float32(RNG.standard_normal((9, 5)))
  p = module.init(jax.random.key(0), x)['params']
  assert set(p) == {'fc1', 'norm1', 'fc2'} and set(p['fc2']) == {'kernel'}
  y = module.apply({'params': p}, x)
  np.testing.assert_allclose(np.mean(y, 0), 0, atol=1e-6)
  np.testing.assert_allclose(np.var(y, 0), 1, rtol=1e-3)


@pytest.mark.parametrize('last', [1, 2, 3])
def test_the_mean_of_the_last_layers(last):
  x = np.float32(RNG.standard_normal((2, 4, 8)))
  model = transformer.Blocks(3, 2, 12)
  params = reference.perturbed(model.init(jax.random.key(0), x)['params'])
  apply = jax.jit(functools.partial(model.apply, last=last))
  found = apply({'params': params}, x)
  for n in range(2):
    outputs = [
      reference.blocks(
        x[n].astype(float), jax.tree.map(lambda a, d=depth: a[:d], params), 2
      )
      for depth in (1, 2, 3)
    ]
    wanted = np.mean(outputs[-last:], 0)
    np.testing.assert_allclose(found[n], wanted, rtol=0, atol=5e-6)
