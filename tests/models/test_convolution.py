"""What the ConvNets share, against independent NumPy forms."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from m3i_jax.models import convolution
from tests.numpy_transformer import perturbed

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def convolved(x, kernel, stride=1, pad=0):
  """float64, tap by tap: [B, H, W, C] by [k, k, C, E]."""
  x = np.pad(np.float64(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  k = kernel.shape[0]
  rows = range(0, x.shape[1] - k + 1, stride)
  columns = range(0, x.shape[2] - k + 1, stride)
  return np.stack([
    np.stack([
      np.einsum('bijc,ijce->be', x[:, r : r + k, c : c + k], kernel)
      for c in columns
    ], axis=1)
    for r in rows
  ], axis=1)  # fmt: skip


def diagonal(kernel):
  """A depthwise kernel [k, k, 1, C] as one of all channels [k, k, C, C]."""
  return kernel * np.eye(kernel.shape[-1])


@pytest.mark.parametrize(
  'kernel,stride,pad', [(3, 2, 1), (4, 4, 0), (2, 2, 0), (1, 1, 0)]
)
@pytest.mark.parametrize('bias', [True, False])
def test_conv(kernel, stride, pad, bias):
  x = RNG.normal(size=(2, 8, 12, 3)).astype(np.float32)
  module = convolution.Conv(5, kernel, stride, pad, bias)
  params = perturbed(module.init(KEY, x)['params'])
  assert set(params) == ({'kernel', 'bias'} if bias else {'kernel'})
  wanted = convolved(x, params['kernel'], stride, pad) + params.get('bias', 0)
  found = module.apply({'params': params}, x)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_conv_starts_as_pytorchs():
  """U(-1, 1) / sqrt(fan in), the bias too; else as asked, the bias 0."""
  maps = np.zeros((1, 8, 8, 16), np.float32)
  bound = 1 / np.sqrt(9 * 16)
  for x in convolution.Conv(64, 3).init(KEY, maps)['params'].values():
    assert 0.95 * bound < np.abs(x).max() <= bound
    assert abs(x.std() / (bound / np.sqrt(3)) - 1) < 0.15
  start = convolution.DepthwiseConv(3, jax.nn.initializers.normal(0.5))
  start = start.init(KEY, np.zeros((1, 8, 8, 512), np.float32))['params']
  assert abs(start['kernel'].std() / 0.5 - 1) < 0.05
  assert not start['bias'].any()


FORMS = (convolution.depthwise_sum, convolution.depthwise_conv)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('kernel', [3, 5, 7])
def test_depthwise_forms_are_the_convolution_of_each_channel(form, kernel):
  """Value and both gradients, also of maps smaller than the kernel."""
  w = RNG.normal(size=(kernel, kernel, 1, 4)).astype(np.float32)
  for shape in ((2, 9, 6, 4), (1, 2, 1, 4)):
    x, g = RNG.normal(size=(2, *shape)).astype(np.float32)
    y, pull = jax.vjp(form, x, w)
    wanted = convolved(x, diagonal(w), pad=kernel // 2)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
    to_x, to_w = pull(g)
    back = convolved(g, diagonal(w[::-1, ::-1]), pad=kernel // 2)
    np.testing.assert_allclose(to_x, back, rtol=0, atol=1e-5)
    # Linear in the kernel: its gradient by one tap at a time.
    for tap in np.ndindex(kernel, kernel):
      one = np.zeros_like(w)
      one[tap] = 1.0
      by_tap = convolved(x, diagonal(one), pad=kernel // 2) * g
      np.testing.assert_allclose(
        to_w[tap][0], by_tap.sum((0, 1, 2)), rtol=0, atol=2e-5
      )


def test_depthwise_in_bfloat16_is_summed_in_float32():
  """49 products: within the rounding of the result, not of every sum."""
  x = RNG.normal(size=(1, 9, 9, 16)).astype(ml_dtypes.bfloat16)
  w = RNG.normal(size=(7, 7, 1, 16)).astype(ml_dtypes.bfloat16)
  wanted = convolved(np.float64(x), diagonal(np.float64(w)), pad=3)
  found = jax.jit(convolution.depthwise_sum)(x, w)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float64(found), wanted, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, 'mixed'])
def test_depthwise_layer(dtype):
  x = RNG.normal(size=(2, 6, 6, 8)).astype(np.float32)
  module = convolution.DepthwiseConv(5, dtype=dtype)
  params = perturbed(module.init(KEY, x)['params'])
  wanted = convolved(x, diagonal(params['kernel']), pad=2) + params['bias']
  found = jax.jit(module.apply)({'params': params}, x)
  half = dtype == jnp.bfloat16
  assert found.dtype == (jnp.bfloat16 if half else jnp.float32)
  atol = 0.03 if half else 1e-5
  np.testing.assert_allclose(np.float32(found), wanted, rtol=0, atol=atol)


def test_pixel_shuffle():
  """torch.nn.PixelShuffle(2): [c, 2h + a, 2w + b] is [4c + 2a + b, h, w]."""
  x = RNG.normal(size=(2, 3, 5, 24)).astype(np.float32)
  wanted = np.empty((2, 6, 10, 6), np.float32)
  for h, w, c, a, b in np.ndindex(3, 5, 6, 2, 2):
    wanted[:, 2 * h + a, 2 * w + b, c] = x[:, h, w, 4 * c + 2 * a + b]
  np.testing.assert_array_equal(convolution.pixel_shuffle(x), wanted)


def test_fuse():
  x3 = RNG.normal(size=(2, 4, 4, 6)).astype(np.float32)
  x4 = RNG.normal(size=(2, 2, 2, 12)).astype(np.float32)
  module = convolution.Fuse(5)
  params = perturbed(module.init(KEY, x3, x4)['params'])
  assert params['x4']['kernel'].shape == (12, 20)
  found = module.apply({'params': params}, x3, x4)
  cell, (row, column), channel = (1, 0), (0, 1), 3  # of x4, in it, of the map
  at = (slice(None), 2 * cell[0] + row, 2 * cell[1] + column)
  part = 4 * channel + 2 * row + column
  wanted = (
    x4[:, *cell] @ params['x4']['kernel'][:, part] + params['x4']['bias'][part]
    + x3[at] @ params['x3']['kernel'][:, channel]
    + params['x3']['bias'][channel]
  )  # fmt: skip
  np.testing.assert_allclose(found[*at, channel], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_tokens_come_in_the_order_of_the_cells(dtype):
  x = jnp.asarray(RNG.normal(size=(2, 3, 3, 4)), dtype)
  flat = np.asarray(x).reshape(2, 9, 4)
  np.testing.assert_array_equal(convolution.tokens(x, None), flat)
  cells = np.array([[8, 0, 3, 3], [1, 2, 7, 0]])
  found, pull = jax.vjp(lambda x: convolution.tokens(x, cells), x)
  assert found.dtype == dtype
  g = np.asarray(jnp.asarray(RNG.normal(size=(2, 4, 4)), dtype))
  gradient = np.float32(pull(jnp.asarray(g))[0]).reshape(2, 9, 4)
  for n in range(2):
    np.testing.assert_array_equal(found[n], flat[n, cells[n]])
    wanted = np.zeros((9, 4), np.float32)
    np.add.at(wanted, cells[n], np.float32(g[n]))
    rounding = 0 if dtype == jnp.float32 else 2**-7
    np.testing.assert_allclose(gradient[n], wanted, rtol=rounding, atol=1e-6)


def test_fixed_norm_applies_statistics_that_do_not_learn():
  x = RNG.normal(size=(4, 6)).astype(np.float32)
  module = convolution.FixedNorm(eps=0.1)
  params = perturbed(module.init(KEY, x)['params'])
  assert params['count'].shape == ()
  loss = lambda p: jnp.sin(module.apply({'params': p}, x)).sum()
  p = params
  wanted = (x - p['mean']) / np.sqrt(p['var'] + 0.1) * p['scale'] + p['bias']
  found = module.apply({'params': params}, x)
  np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
  gradient = jax.grad(loss)(params)
  learns = {name for name, g in gradient.items() if np.abs(g).max() > 0}
  assert learns == {'scale', 'bias'}
