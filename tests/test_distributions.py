import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.distributions import (
  Boltzmann,
  Categorical,
  Correlation,
  Gaussian,
  Sigmoid,
)
from m3i_jax.regularizers import Given
from m3i_jax.representations import Category, Represented
from m3i_jax.target import Target

RTOL = 2e-6  # the package computes in float32, the references in float64


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


def test_top1_counts_the_valid_alone():
  table = np.eye(4, dtype=np.float32)
  valid = np.array([True, True, False, True])
  z = Represented(None, valid, table, np.array([0, 2, 2, 3]))
  p = table[[0, 1, 2, 3]]  # right, wrong, right but void, right
  _, measured = Boltzmann().apply({}, z, p)
  np.testing.assert_allclose(measured['top1'], 2 / 3, rtol=RTOL)


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
  start = clip.init(jax.random.key(0), z, p)['params']
  np.testing.assert_allclose(start['logit_scale'], np.log(1 / 0.07))

  def value(scale):
    return nll(clip, z, p, {'logit_scale': scale}).sum()

  fixed = nll(Boltzmann(0.01, normalize=True), z, p).sum()
  np.testing.assert_allclose(value(jnp.float32(9.0)), fixed, rtol=1e-5)
  assert jax.grad(value)(jnp.float32(9.0)) == 0
  assert jax.grad(value)(jnp.float32(4.6)) != 0


def test_categorical_is_per_piece_and_counts_the_valid_alone():
  """[B, T, V] against int [B, T]: a loss for each piece."""
  logits, index = normal(3, 4, 6), np.arange(12).reshape(3, 4) % 6
  valid = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
  z = Represented(None, valid, index=index, choices=6)
  value, measured = Categorical(0.5).apply({}, z, logits)
  log_p = log_softmax(logits / 0.5)
  wanted = -np.take_along_axis(log_p, index[..., None], -1)[..., 0]
  np.testing.assert_allclose(value, wanted, rtol=RTOL)
  hit = logits.argmax(-1) == index
  np.testing.assert_allclose(measured['top1'], hit[valid].mean(), rtol=RTOL)
  got, slope = jax.value_and_grad(
    lambda x: loss(Categorical(0.5), z, x)
  )(logits)
  np.testing.assert_allclose(got, wanted[valid].mean(), rtol=RTOL)
  np.testing.assert_array_equal(slope[~valid], 0.0)
  assert np.abs(slope[valid]).min() > 0


def test_correlation_gives_each_sample_the_batchs_likelihood():
  """0 for what correlates fully, whatever its scale and mean."""
  z, p = normal(8, 3, seed=1), normal(8, 3, seed=2)
  z_y = Represented(z, np.ones(8, bool))
  value, measured = Correlation().apply({}, z_y, p)
  diagonal = [np.corrcoef(p[:, n], z[:, n])[0, 1] for n in range(3)]
  # The variances have an epsilon of 1e-5.
  wanted = ((1 - np.array(diagonal)) ** 2).sum()
  np.testing.assert_allclose(value, np.full(8, wanted), rtol=1e-4)
  np.testing.assert_allclose(
    measured['correlation'], np.mean(diagonal), rtol=1e-4
  )
  value, _ = Correlation().apply({}, z_y, 5 * z + 2)
  assert np.abs(value).max() < 1e-8


VALID = np.array([True, True, False, True, True])


def best(distribution, z, shape):
  """The least loss of one prediction for all, by gradient descent."""
  value = lambda p: loss(
    distribution, z, jnp.broadcast_to(p, (len(z.valid), *shape))
  )
  step = jax.jit(jax.value_and_grad(value))
  p = jnp.asarray(normal(*shape, seed=9))
  for _ in range(1500):
    least, slope = step(p)
    p = p - 0.5 * slope
  return least


def simplex(*shape):
  return np.float32(np.exp(log_softmax(normal(*shape))))


@pytest.mark.parametrize(
  'distribution, z, shape',
  [
    (Gaussian(), Represented(normal(5, 3), VALID), (3,)),
    (Gaussian(), Represented(normal(5, 2, 3), VALID), (1, 3)),
    (Gaussian(normalize=True), Represented(normal(5, 3), VALID), (3,)),
    (
      # A table that spans all logits.
      Boltzmann(smoothing=0.1),
      Represented(
        None, VALID, np.eye(4, dtype=np.float32), np.array([0, 1, 3, 1, 2]),
        np.zeros(4, np.float32),
      ),
      (4,),
    ),
    (
      Boltzmann(),
      Represented(
        None, VALID, np.eye(4, dtype=np.float32), share=simplex(5, 4)
      ),
      (4,),
    ),
    (Categorical(), Represented(simplex(5, 4), VALID), (4,)),
    (
      Categorical(smoothing=0.2),
      Represented(None, VALID, index=np.array([0, 1, 3, 1, 2]), choices=4),
      (4,),
    ),
  ],
)  # fmt: skip
def test_the_floor_is_what_the_best_constant_costs(distribution, z, shape):
  floor = distribution.apply({}, z, method='floor')
  np.testing.assert_allclose(best(distribution, z, shape), floor, rtol=2e-5)


def test_floors_of_a_batch_of_candidates():
  """A constant cannot tell the valid ones apart; nothing else is free."""
  z = Represented(normal(5, 3), VALID)
  floor = Boltzmann(0.2).apply({}, z, method='floor')
  np.testing.assert_allclose(floor, np.log(4), rtol=RTOL)
  z = Represented(normal(5, 2, 3), VALID)
  floor = Boltzmann(0.2).apply({}, z, method='floor')
  np.testing.assert_allclose(floor, np.log(8), rtol=RTOL)
  # SigLIP: each of 16 pairs true with probability 1/4, four rows.
  params = {'logit_scale': 0.0, 'offset': 0.0}
  z = Represented(normal(5, 3), VALID)
  floor = Sigmoid().apply({'params': params}, z, method='floor')
  wanted = -np.log(1 / 4) - 3 * np.log(3 / 4)
  np.testing.assert_allclose(floor, wanted, rtol=RTOL)
