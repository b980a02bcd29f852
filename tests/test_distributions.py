import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.distributions import Boltzmann, Gaussian
from m3i_jax.objective import Target
from m3i_jax.regularizers import Given
from m3i_jax.representations import Category, Represented

RTOL = 2e-6  # the package computes in float32, the references in float64
ATOL = 1e-5  # of losses of 0.001..17 whose logits reach 1 / 0.07


def normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal(shape).astype(np.float32)


def log_softmax(x):
  """By definition, in float64; rows may hold -inf."""
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def nll(distribution, z, prediction, params=None):
  value, _ = distribution.apply({'params': params or {}}, z, prediction)
  return value


def loss(distribution, z, prediction, params=None):
  """As a target takes it: the mean over the valid samples."""
  target = Target('text', Category(1, 1), '', distribution, Given())
  params = {'distribution': params} if params else {}
  return target.apply({'params': params}, z, prediction)[0]


def info_nce(prediction, value, valid, scale):
  """CLIP's loss over the valid pairs alone, which it loops over."""
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  p = unit(np.float64(prediction[valid]))
  t = unit(np.float64(value[valid]))
  terms = []
  for n in range(len(p)):
    to_text = log_softmax(scale * t @ p[n])[n]
    to_image = log_softmax(scale * p @ t[n])[n]
    terms.append(-(to_text + to_image) / 2)
  return np.array(terms)


@pytest.mark.parametrize('shape', [(3, 5, 8), (3, 8)])
def test_gaussian_is_the_mean_square(shape):
  z, p = normal(*shape, seed=1), normal(*shape, seed=2)
  got = nll(Gaussian(), Represented(z, np.ones(3, bool)), p)
  error = (np.float64(p) - z) ** 2
  np.testing.assert_allclose(
    got, [error[n].sum() / error[n].size for n in range(3)], rtol=RTOL
  )


def test_gaussian_is_a_gaussian_of_variance_half_the_width():
  # -log N(z; p, D/2 I) less its constant, for two vectors of width 6.
  z, p = normal(2, 6, seed=1), normal(2, 6, seed=2)
  got = nll(Gaussian(), Represented(z, np.ones(2, bool)), p)
  squares = ((np.float64(p) - z) ** 2).sum(-1)
  np.testing.assert_allclose(got, squares / (2 * (6 / 2)), rtol=RTOL)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('temperature', [1.0, 0.2])
def test_boltzmann_over_a_table_is_cross_entropy(smoothing, temperature):
  table, bias, p = normal(7, 5), normal(7, seed=1), normal(4, 5, seed=2)
  index = np.array([3, 0, 6, 3])
  z = Represented(None, np.ones(4, bool), table, index, bias)
  got = nll(Boltzmann(temperature, smoothing=smoothing), z, p)
  logits = np.float64(p) @ np.float64(table).T / temperature + bias
  wanted = np.full((4, 7), smoothing / 7)
  wanted[np.arange(4), index] += 1 - smoothing
  np.testing.assert_allclose(
    got, -(wanted * log_softmax(logits)).sum(-1), rtol=RTOL
  )


def test_top1_counts_the_valid_alone():
  table = np.eye(4, dtype=np.float32)
  valid = np.array([True, True, False, True])
  z = Represented(None, valid, table, np.array([0, 2, 2, 3]))
  p = table[[0, 1, 2, 3]]  # right, wrong, right but void, right
  _, measured = Boltzmann().apply({}, z, p)
  np.testing.assert_allclose(measured['top1'], 2 / 3, rtol=RTOL)


def test_info_nce_of_the_batch_both_ways():
  z, p = normal(6, 5, seed=1), normal(6, 5, seed=2)
  valid = np.ones(6, bool)
  clip = Boltzmann(0.07, learned=True, normalize=True, symmetric=True)
  params = clip.init(jax.random.key(0), Represented(z, valid), p)['params']
  np.testing.assert_allclose(params['logit_scale'], np.log(1 / 0.07))
  got = nll(clip, Represented(z, valid), p, params)
  np.testing.assert_allclose(
    got, info_nce(p, z, valid, 1 / 0.07), rtol=0, atol=ATOL
  )
  one_way = Boltzmann(0.07, normalize=True)
  unit = lambda x: x / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)
  np.testing.assert_allclose(
    nll(one_way, Represented(z, valid), p),
    -np.diag(log_softmax(unit(p) @ unit(z).T / 0.07)),
    rtol=0,
    atol=ATOL,
  )


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('symmetric', [False, True])
def test_void_samples_count_for_nothing(smoothing, symmetric):
  """Not as a term, not as a negative, and no gradient touches them."""
  valid = np.array([True, False, True, True, False, True])
  clip = Boltzmann(0.2, False, True, smoothing, symmetric)

  def value(z, p, valid=valid):
    return loss(clip, Represented(z, valid), p)

  z, p = normal(6, 5, seed=1), normal(6, 5, seed=2)
  got, gradient = jax.value_and_grad(value, (0, 1))(z, p)
  alone = value(z[valid], p[valid], np.ones(4, bool))
  np.testing.assert_allclose(got, alone, rtol=RTOL)
  if symmetric and not smoothing:
    np.testing.assert_allclose(got, info_nce(p, z, valid, 5).mean(), rtol=1e-5)
  for part in gradient:
    assert np.abs(part[valid]).min() > 0
    np.testing.assert_array_equal(part[~valid], 0.0)
  mask = valid[:, None]
  other = value(np.where(mask, z, 9.0), np.where(mask, p, -9.0))
  np.testing.assert_array_equal(got, other)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_a_batch_of_void_samples_has_no_loss_and_no_gradient(smoothing):
  clip = Boltzmann(0.2, False, True, smoothing, True)
  z, p = normal(4, 5, seed=1), normal(4, 5, seed=2)
  value = lambda p: loss(clip, Represented(z, np.zeros(4, bool)), p)
  got, gradient = jax.value_and_grad(value)(p)
  assert got == 0
  np.testing.assert_array_equal(gradient, 0.0)


def test_learned_scale_stops_at_100():
  z, p = normal(4, 5, seed=1), normal(4, 5, seed=2)
  z = Represented(z, np.ones(4, bool))
  clip = Boltzmann(0.07, learned=True, normalize=True)

  def value(scale):
    return nll(clip, z, p, {'logit_scale': scale}).sum()

  fixed = nll(Boltzmann(0.01, normalize=True), z, p).sum()
  np.testing.assert_allclose(value(jnp.float32(9.0)), fixed, rtol=1e-5)
  assert jax.grad(value)(jnp.float32(9.0)) == 0
  assert jax.grad(value)(jnp.float32(4.6)) != 0
