"""Products with rounded operands, and the GELU, against NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy import special

from m3i_jax.models import layers, transformer

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
