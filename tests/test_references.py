"""The package's losses against the published ones: values and gradients.

The formulas of `tests/references.py` run in NumPy's float64 and are
differentiated by central differences; the golden arrays come from PyTorch. The
package runs in float32, which is what the tolerances allow for.
"""

import pathlib

import jax
import numpy as np
import pytest

from m3i_jax.distributions import (
  Boltzmann,
  Categorical,
  Correlation,
  Gaussian,
  Sigmoid,
)
from m3i_jax.regularizers import (
  Centering,
  Decorrelation,
  Given,
  MeanEntropy,
  Negatives,
  StopGradient,
)
from m3i_jax.representations import Category, Prototypes, Represented
from m3i_jax.target import Target
from tests import references as paper

GOLDEN = pathlib.Path(__file__).parent / 'golden'
VALUE = 1e-6  # relative
GRADIENT = 3e-6  # of a gradient's largest entry
VALID = np.array([True, False, True, True, False, True])


def golden(name):
  with np.load(GOLDEN / f'{name}.npz') as file:
    return dict(file)


def normal(*shape, seed=0):
  """float32 numbers, so that both sides are given the same."""
  rng = np.random.default_rng([seed, *shape])
  return rng.standard_normal(shape).astype(np.float32)


# Targets and predictions of a batch, and of its cells.
PAIR = normal(6, 5, seed=1), normal(6, 5, seed=2)
DENSE = normal(3, 4, 5, seed=1), normal(3, 4, 5, seed=2)


def everything(z):
  return Represented(z, np.ones(len(z), bool))


def row(distribution, regularizer, representation=None):
  """A row of the table of targets, without its decoder."""
  z = representation or Category(1, 1)
  return Target('a', z, '', distribution, regularizer)


def measure(target, params=None, valid=None, **collections):
  """(z, prediction) -> the row's loss; all are valid unless told otherwise."""
  variables = {'params': params or {}} | collections

  def loss(z, p):
    if not isinstance(z, Represented):
      z = Represented(z, np.ones(len(z), bool) if valid is None else valid)
    return target.apply(variables, z, p)[0]

  return loss


def same(got, wanted, tolerance=GRADIENT):
  """Within a share of the largest entry."""
  assert np.shape(got) == np.shape(wanted)
  np.testing.assert_allclose(
    got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max()
  )


def agree(loss, formula, *arguments, still=()):
  """Loss and gradients are the formula's; none to the arguments in `still`."""
  every = tuple(range(len(arguments)))
  value, gradients = jax.jit(jax.value_and_grad(loss, every))(*arguments)
  double = [np.float64(x) for x in arguments]
  np.testing.assert_allclose(value, formula(*double), rtol=VALUE)
  for n in every:
    if n in still:
      np.testing.assert_array_equal(gradients[n], 0.0)
      continue

    def moved(x, n=n):
      return formula(*double[:n], x, *double[n + 1 :])

    wanted = paper.gradient(moved, double[n])
    assert np.abs(wanted).max() > 1e-4
    same(gradients[n], wanted)


def test_the_formulas_are_those_of_the_golden_arrays():
  """Both sides float64."""
  clip = golden('clip')
  tau = np.exp(-clip['logit_scale'])
  both = lambda p, z: paper.info_nce(p, z, tau, symmetric=True)
  p, z = clip['image'], clip['text']
  np.testing.assert_allclose(both(p, z), clip['loss'], rtol=1e-12)
  same(paper.gradient(lambda x: both(x, z), p), clip['gradients/image'], 1e-8)
  dense = golden('dense_loss')
  p, z = dense['prediction'], dense['target']
  z = z - z.mean(-1, keepdims=True)
  z = z / np.sqrt((z**2).mean(-1, keepdims=True) + 1e-5)
  for weight in (0.0, 0.02, 0.5):
    loss = paper.gaussian(p, z) + paper.covariance(p, z, weight)
    np.testing.assert_allclose(loss, dense[f'loss_neg{weight}'], rtol=1e-12)


@pytest.mark.parametrize('block', [1024, 4])
@pytest.mark.parametrize('symmetric', [False, True])
def test_info_nce(symmetric, block):
  """Of the valid pairs; a block smaller than the batch changes nothing."""
  target = row(
    Boltzmann(0.2, normalize=True, symmetric=symmetric, block=block),
    Negatives(),
  )
  agree(
    measure(target, valid=VALID),
    lambda z, p: paper.info_nce(p, z, 0.2, VALID, symmetric),
    *PAIR,
  )


def test_clip_of_transformers():
  """To the features before they have unit length, and to the scale."""
  clip = golden('clip')
  target = row(
    Boltzmann(0.07, learned=True, normalize=True, symmetric=True), Negatives()
  )

  def loss(z, p, scale):
    params = {'distribution': {'logit_scale': scale}}
    return measure(target, params)(z, p)

  names = ('text', 'image', 'logit_scale')
  value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(
    *(clip[name].astype(np.float32) for name in names)
  )
  np.testing.assert_allclose(value, clip['loss'], rtol=VALUE)
  for name, gradient in zip(names, gradients, strict=True):
    same(gradient, clip[f'gradients/{name}'])
  scale = clip['logit_scale'].astype(np.float32)
  logits = target.apply(
    {'params': {'distribution': {'logit_scale': scale}}},
    everything(clip['text'].astype(np.float32)),
    clip['image'].astype(np.float32),
    method='logits',
  )
  same(logits, clip['logits_per_image'])


def test_moco_v3():
  target = row(Boltzmann(0.2, normalize=True), StopGradient())
  agree(
    lambda z, p: 2 * 0.2 * measure(target)(everything(z), p),
    lambda z, p: paper.moco_v3(p, z, 0.2),
    *PAIR,
    still=(0,),
  )


def test_dense_instance_discrimination():
  """Every location against those of all pictures, its own picture's too."""
  target = row(Boltzmann(0.2, normalize=True, block=5), StopGradient())
  agree(
    measure(target),
    lambda z, p: paper.dense_info_nce(p, z, 0.2),
    *DENSE,
    still=(0,),
  )


@pytest.mark.parametrize(
  'formula', [paper.byol, lambda p, z: 2 + 2 * paper.simsiam(p, z)]
)
def test_byol_and_simsiam(formula):
  loss = measure(row(Gaussian(normalize=True), StopGradient()))
  agree(loss, lambda z, p: formula(p, z), *PAIR, still=(0,))


def test_barlow_twins():
  """Both branches are trained."""
  z, p = PAIR
  agree(
    measure(row(Correlation(), Decorrelation())),
    lambda z, p: sum(paper.barlow_twins(p, z, 0.0051)),
    z + 3,
    2 * p,
  )


def test_dino():
  """By the centre of the steps before; the teacher's batch then moves it."""
  target = row(Categorical(0.1), Centering(0.04, 0.9))
  centre = normal(7, seed=3)
  running = {'regularizer': {'centre': centre}}
  # Logits as small as a head's: the softmax of the others is one-hot.
  z, p = 0.05 * normal(6, 7, seed=1), 0.3 * normal(6, 7, seed=2)
  z = z + centre
  agree(
    measure(target, running=running),
    lambda z, p: paper.dino(p, z, np.float64(centre)),
    z,
    p,
    still=(0,),
  )
  (loss, _), after = target.apply(
    {'running': running}, everything(z), p, mutable='running'
  )
  z, centre = np.float64(z), np.float64(centre)
  np.testing.assert_allclose(loss, paper.dino(p, z, centre), rtol=VALUE)
  wanted = paper.dino_centre(centre, z)
  same(after['running']['regularizer']['centre'], wanted)


def test_msn():
  """The table learns from the prediction's side alone."""
  target = row(
    Boltzmann(0.1, normalize=True),
    MeanEntropy(1.0),
    Prototypes(5, count=7, temperature=0.1 * 0.25),
  )
  table = normal(7, 5, seed=3)

  def loss(z, p, table):
    params = {'params': {'representation': {'table': table}}}
    z = target.apply(params, z, method='encode')
    return target.apply(params, z, p)[0]

  fixed = paper.msn_target(PAIR[0], np.float64(table))
  assert fixed.max(-1).min() < 0.9  # not all are sure
  agree(
    loss,
    lambda z, p, table: sum(paper.msn(p, fixed, table)),
    *PAIR,
    table,
    still=(0,),
  )


@pytest.mark.parametrize('block', [1024, 4])
def test_siglip(block):
  """Of the valid pairs, with the learned scale and bias."""
  target = row(Sigmoid(block=block), Negatives())
  start = target.init(jax.random.key(0), everything(PAIR[0]), PAIR[1])
  wanted = {'logit_scale': np.float32(np.log(10)), 'offset': -10.0}
  assert start['params']['distribution'] == wanted

  def loss(z, p, log_t, bias):
    params = {'distribution': {'logit_scale': log_t, 'offset': bias}}
    return measure(target, params, VALID)(z, p)

  agree(
    loss,
    lambda z, p, log_t, bias: paper.siglip(p, z, log_t, bias, VALID),
    *PAIR,
    np.float32(1.5),
    np.float32(-2.0),
  )


def test_dense_gaussian():
  loss = measure(row(Gaussian(), Given()))
  agree(loss, lambda z, p: paper.gaussian(p, z), *DENSE)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_classification(smoothing):
  """A class table is a linear classifier; categorical takes its logits."""
  index = np.array([3, 0, 6, 3])
  table, p, bias = normal(7, 5), normal(4, 5, seed=1), normal(7, seed=2)
  target = row(Boltzmann(smoothing=smoothing), Negatives())

  def loss(table, p, bias):
    z = Represented(None, np.ones(4, bool), table, index, bias)
    return measure(target)(z, p)

  def formula(table, p, bias):
    return paper.cross_entropy(p @ table.T + bias, index, smoothing)

  agree(loss, formula, table, p, bias)
  target = row(Categorical(smoothing=smoothing), Given())
  z = Represented(None, np.ones(4, bool), index=index, choices=7)
  agree(
    lambda p: measure(target)(z, p),
    lambda p: paper.cross_entropy(p, index, smoothing),
    normal(4, 7, seed=3),
  )
