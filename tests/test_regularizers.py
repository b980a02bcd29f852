import pathlib

import jax
import numpy as np
import pytest

from m3i_jax.distributions import Boltzmann, Categorical, Correlation, Gaussian
from m3i_jax.regularizers import (
  Centering,
  Covariance,
  Decorrelation,
  Given,
  MeanEntropy,
  Negatives,
  StopGradient,
)
from m3i_jax.representations import Category, DenseFeature, Represented
from m3i_jax.target import Target

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/dense_loss.npz')


def dense_loss(prediction, target, regularizer):
  """Raw encoder tokens to the loss, as a row of the table."""
  row = Target(
    'b', DenseFeature(target.shape[-1]), '', Gaussian(), regularizer
  )
  z = row.apply({}, target, method='encode')
  return row.apply({}, z, prediction)[0]


@pytest.mark.parametrize('weight', [0.0, 0.02, 0.5])
def test_dense_loss_of_siameseim(weight):
  """Golden values are float64, the package's float32: 1e-6 apart at most."""
  value, gradient = jax.value_and_grad(dense_loss)(
    GOLDEN['prediction'].astype(np.float32),
    GOLDEN['target'].astype(np.float32),
    Covariance(weight) if weight else StopGradient(),
  )
  np.testing.assert_allclose(value, GOLDEN[f'loss_neg{weight}'], rtol=1e-6)
  wanted = GOLDEN[f'grad_neg{weight}']
  np.testing.assert_allclose(
    gradient, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max()
  )


@pytest.mark.parametrize(
  'targets, least',
  [
    (np.sqrt(768) * np.eye(768), 0.02 / 1.02),  # E[t t'] = I: .0196
    (np.ones((768, 768)), 0.02 * 768 / (1 + 0.02 * 768)),  # rank 1: .939
  ],
)
def test_covariance_makes_collapse_expensive(targets, least):
  covariance = targets.T @ targets / len(targets)
  best = targets @ np.linalg.inv(np.eye(768) + 0.02 * covariance)
  z = Represented(targets[None].astype(np.float32), np.ones(1, bool))
  row = Target('b', DenseFeature(768), '', Gaussian(), Covariance())
  loss = lambda p: row.apply({}, z, p)[0]
  value, slope = jax.value_and_grad(loss)(best[None].astype(np.float32))
  np.testing.assert_allclose(value, least, rtol=1e-5)
  # The closed form is the minimum: nothing pulls but rounding.
  size = np.abs(best - targets).max() * 2 / targets.size
  assert np.abs(slope).max() < 1e-5 * size


@pytest.mark.parametrize('regularizer', [StopGradient(), Covariance(0.5)])
def test_no_gradient_reaches_the_target(regularizer):
  p, t = (GOLDEN[k].astype(np.float32) for k in ('prediction', 'target'))
  gradient = jax.grad(dense_loss, 1)(p, t, regularizer)
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize('regularizer', [Given(), Negatives()])
def test_the_others_change_nothing(regularizer):
  """A joint target learns: the text tower and the class table."""
  z = Represented(np.eye(4, dtype=np.float32), np.ones(4, bool))
  p = np.float32(np.arange(16).reshape(4, 4) % 5)
  row = Target('text', Category(1, 1), '', Boltzmann(), regularizer)

  def loss(value):
    return row.apply({}, z.replace(value=value), p)[0]

  value, gradient = jax.value_and_grad(loss)(z.value)
  np.testing.assert_allclose(value, Boltzmann().apply({}, z, p)[0].mean())
  assert np.abs(gradient).min() > 0


def normal(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return rng.standard_normal(shape).astype(np.float32)


def test_a_penalty_is_measured_beside_the_loss():
  """The loss is the likelihood's, whose floor then says something."""
  z, p = Represented(normal(8, 3), np.ones(8, bool)), normal(8, 3, seed=1)
  row = Target(
    'b', DenseFeature(3), '', Correlation(), Decorrelation(0.5)
  )
  total, measured = row.apply({}, z, p)
  np.testing.assert_allclose(
    total, measured['loss'] + measured['penalty'], rtol=1e-6
  )
  assert measured['penalty'] > 0.01 and measured['floor'] == 3
  row = row.clone(regularizer=Given())
  total, measured = row.apply({}, z, p)
  assert total == measured['loss'] and 'penalty' not in measured


VALID = np.array([True, False, True, True])


def centred(collections, z, p, **how):
  row = Target(
    'a', DenseFeature(5), '', Categorical(0.1), Centering(0.5, 0.9)
  )
  return row.apply(collections, Represented(z, VALID), p, **how)


def softmax(x):
  e = np.exp(np.float64(x) - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_the_centre_starts_at_zero_and_is_one_step_late():
  """A step reads what the steps before have left."""
  row = Target(
    'a', DenseFeature(5), '', Categorical(0.1), Centering(0.5, 0.9)
  )
  p = normal(4, 5)
  start = row.init(jax.random.key(0), Represented(p, VALID), p)
  running, centre = {'running': start['running']}, np.zeros(5)
  kept = running['running']['regularizer']['centre']
  np.testing.assert_array_equal(kept, np.zeros(5))
  for seed in range(3):
    z = normal(4, 5, seed=seed) + 2
    (loss, _), running = centred(running, z, p, mutable=['running'])
    log_p = np.log(softmax(p / 0.1))
    terms = -(softmax((z - centre) / 0.5) * log_p).sum(-1)
    np.testing.assert_allclose(loss, terms[VALID].mean(), rtol=1e-5)
    centre = 0.9 * centre + 0.1 * np.float64(z)[VALID].mean(0)
    kept = running['running']['regularizer']['centre']
    np.testing.assert_allclose(kept, centre, rtol=1e-6)
  assert np.abs(centre).min() > 0.1


def test_the_centre_stays_where_nothing_may_change():
  """As in an evaluation."""
  centre = {'regularizer': {'centre': normal(5)}}
  z, p = normal(4, 5, seed=1), normal(4, 5, seed=2)
  loss, _ = centred({'running': centre}, z, p)
  (wanted, _), after = centred({'running': centre}, z, p, mutable=['running'])
  np.testing.assert_array_equal(loss, wanted)
  moved = after['running']['regularizer']['centre']
  assert np.abs(moved - centre['regularizer']['centre']).max() > 0.01


def test_no_gradient_through_a_centred_target():
  centre = {'running': {'regularizer': {'centre': normal(5)}}}

  def loss(z, p, centre):
    (value, _), after = centred(centre, z, p, mutable=['running'])
    return value + after['running']['regularizer']['centre'].sum()

  pair = normal(4, 5), normal(4, 5, seed=1)
  to_z, to_p = jax.grad(loss, (0, 1))(*pair, centre)
  np.testing.assert_array_equal(to_z, 0.0)
  assert np.abs(to_p[VALID]).min() > 0


def test_mean_entropy_is_that_of_the_mean_of_the_valid():
  """0 where all candidates are used alike, log M where one is."""
  table, p = normal(6, 5), normal(4, 5, seed=1)
  z = Represented(None, VALID, table, share=np.full((4, 6), 1 / 6, np.float32))
  distribution = Boltzmann(0.3, normalize=True).bind({})
  regularizer = MeanEntropy(0.7)
  _, penalty = regularizer(z, p, distribution)
  unit = lambda x: x / np.linalg.norm(np.float64(x), axis=-1, keepdims=True)
  mean = softmax(unit(p) @ unit(table).T / 0.3)[VALID].mean(0)
  wanted = 0.7 * (np.log(6) + (mean * np.log(mean)).sum())
  np.testing.assert_allclose(penalty, wanted, rtol=1e-5)
  one = np.tile(table[:1], (4, 1))
  sharp = Boltzmann(0.001, normalize=True).bind({})
  np.testing.assert_allclose(
    regularizer(z, one, sharp)[1], 0.7 * np.log(6), rtol=1e-6
  )
  z, each = z.replace(valid=np.ones(6, bool)), table
  assert abs(regularizer(z, each, sharp)[1]) < 1e-6
