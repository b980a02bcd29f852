import pathlib

import jax
import numpy as np
import pytest

from m3i_jax.distributions import Boltzmann, Gaussian
from m3i_jax.objective import Target
from m3i_jax.regularizers import Decorrelation, Given, Negatives, StopGradient
from m3i_jax.representations import Category, DenseFeature, Represented

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
    Decorrelation(weight) if weight else StopGradient(),
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
def test_decorrelation_makes_collapse_expensive(targets, least):
  covariance = targets.T @ targets / len(targets)
  best = targets @ np.linalg.inv(np.eye(768) + 0.02 * covariance)
  z = Represented(targets[None].astype(np.float32), np.ones(1, bool))
  row = Target('b', DenseFeature(768), '', Gaussian(), Decorrelation())
  loss = lambda p: row.apply({}, z, p)[0]
  value, slope = jax.value_and_grad(loss)(best[None].astype(np.float32))
  np.testing.assert_allclose(value, least, rtol=1e-5)
  # The closed form is the minimum: nothing pulls but rounding.
  size = np.abs(best - targets).max() * 2 / targets.size
  assert np.abs(slope).max() < 1e-5 * size


@pytest.mark.parametrize('regularizer', [StopGradient(), Decorrelation(0.5)])
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
