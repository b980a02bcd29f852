"""Target encoders: which gradient reaches them, and what the average holds.

One objective has a target of each kind of encoder, with batch norm in the
projectors, so that its samples are bound together.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import build, sharding
from m3i_jax.gradient import Teachers, loss_and_gradient
from m3i_jax.optim import Optimizer
from m3i_jax.step import init_state, make_train_step
from tests import small

KEY = jax.random.key(3)
TEACHER = dict(
  name='vit', variant='', width=48, depth=1, heads=4, hidden=40, patch=8
)
DENSE = dict(kind='dense', width=24, depth=1, heads=2, hidden=40)
TARGETS = dict(
  # One encoder for both views, which learns from both sides.
  barlow=dict(
    of='b',
    representation=dict(kind='global', encoder='shared'),
    decoder='project',
    distribution='correlation',
    regularizer='decorrelation',
  ),
  # The average, with the decoder's projector at its end.
  dense=dict(
    of='b',
    representation=dict(kind='dense', projected=True, last=2),
    decoder='projected',
    distribution=dict(kind='boltzmann', temperature=0.2, normalize=True),
    regularizer='negatives',
  ),
  dino=dict(
    of='a',
    representation=dict(kind='global', encoder='frozen'),
    decoder='wide',
    distribution=dict(kind='categorical', temperature=0.5),
    regularizer=dict(kind='centering', temperature=0.5),
  ),
  distilled=dict(
    of='a',
    representation=dict(kind='dense', encoder='frozen'),
    decoder='dense',
    distribution='gaussian',
    regularizer='stop_gradient',
  ),
  category=small.CATEGORY,
)


class World:
  """The objective, its state with every parameter moved, and a batch."""

  def __init__(self):
    c = small.small_config(TARGETS, images=1, mask=0.5)
    c.decoders = dict(c.decoders) | dict(
      dense=DENSE,
      projected=DENSE | dict(projector=1, norm='batch', class_token=True),
      wide=dict(kind='mlp', pool='cls'),
    )
    self.config = c
    self.objective = build.build(c, small.CLASSES, teacher_model=TEACHER)
    self.optimizer = Optimizer().build(10)
    self.batch = small.draw_batch()
    del self.batch['text']
    init = lambda: init_state(self.objective, self.optimizer, 0, self.batch)
    self.fresh = jax.jit(init)()
    self.params = small.perturbed(self.fresh.params)
    self.ema = small.perturbed(self.fresh.ema, seed=1)
    self.frozen = small.perturbed(self.fresh.frozen, seed=2)
    self.teachers = Teachers(self.ema, self.frozen)
    self.running = {
      'targets_dino': {'regularizer': {'centre': np.ones(48, np.float32)}}
    }

  def loss_and_gradient(self, params, teachers, batch):
    """With gbar at .3 and .2 before."""
    state = {'g_u': jnp.float32(0.3), 'g_m': jnp.float32(0.2)}
    return loss_and_gradient(
      self.objective, params, teachers, self.running, state, batch, KEY
    )


@pytest.fixture(scope='module')
def world():
  return World()


@pytest.fixture(scope='module')
def backward(world):
  step = jax.jit(world.loss_and_gradient)
  return jax.device_get(step(world.params, world.teachers, world.batch))


def norm(tree):
  return np.sqrt(sum((np.float64(x) ** 2).sum() for x in jax.tree.leaves(tree)))


@pytest.fixture(scope='module')
def autodiff(world):
  """L_SSP and L_SP as a plain function of all parameters: (slopes, values).

  The slopes are to the parameters and to what is added to the input features;
  'still' holds the shared encoder's targets fixed, 'whole' does not.
  """
  apply = world.objective.apply
  sample = world.objective.sample(
    world.batch, world.teachers.features(world.objective),
    jax.random.split(KEY)[0],
  )  # fmt: skip

  def losses(params, push, moves):
    z_x = apply({'params': params}, sample, method='encode')
    shared = z_x.pop('shared')
    shared = jax.tree.map(
      lambda x: moves * x + (1 - moves) * jax.lax.stop_gradient(x), shared
    )
    z_x = jax.tree.map(jnp.add, z_x, push) | {'shared': shared}
    variables = {'params': params, 'running': world.running}
    values = [
      apply(variables, z_x, sample, g, method='group_loss')[0]
      for g in ('ssp', 'sp')
    ]
    return values, values

  push = {'tokens': np.zeros((8, 8, 32)), 'cls': np.zeros((8, 32))}
  push = jax.tree.map(np.float32, push)
  slopes = jax.jit(jax.jacrev(losses, (0, 1), has_aux=True))
  return {
    name: jax.device_get(slopes(world.params, push, moves))
    for name, moves in (('whole', 1.0), ('still', 0.0))
  }


def test_one_pull_back_is_plain_autodiff(backward, autodiff):
  """Through both roles of the shared encoder, in all parameters."""
  loss, gradient, _, new, measured = backward
  sides, (ssp, sp) = autodiff['whole']
  for key, gbar, (_, push) in zip(
    ('g_u', 'g_m'), (0.3, 0.2), sides, strict=True
  ):
    # Of the input features alone, not of those that are a target.
    np.testing.assert_allclose(measured[key], norm(push), rtol=1e-5)
    wanted = 0.99 * gbar + 0.01 * norm(push)
    np.testing.assert_allclose(new[key], wanted, rtol=1e-5)
  lambda_ = measured['lambda']
  np.testing.assert_allclose(loss, ssp + lambda_ * sp, rtol=1e-6)
  wanted = jax.tree.map(lambda u, m: u + lambda_ * m, sides[0][0], sides[1][0])
  small.same(gradient, wanted, 1e-5)


def test_a_shared_encoder_learns_as_target_too(autodiff):
  (whole, _), _ = autodiff['whole'][0]
  (still, _), _ = autodiff['still'][0]
  part = jax.tree.map(np.subtract, whole, still)
  assert norm(part['encoder']) > 0.05 * norm(whole['encoder'])
  for leaf in jax.tree.leaves(jax.tree.map(
    lambda x: np.abs(x).max(), part['encoder']['blocks']['layers']['mlp']
  )):  # fmt: skip
    assert leaf > 1e-6
  # Its target goes through the projector of the prediction.
  small.same(
    {k: v for k, v in whole.items() if k != 'encoder'},
    {k: v for k, v in still.items() if k != 'encoder'},
    1e-5,
  )


def test_no_gradient_reaches_the_average_or_a_frozen_teacher(world, backward):
  loss = lambda teachers: world.loss_and_gradient(
    world.params, teachers, world.batch
  )[0]
  slopes = jax.jit(jax.grad(loss))(world.teachers)
  for leaf in jax.tree.leaves(slopes):
    np.testing.assert_array_equal(leaf, 0.0)
  assert set(backward[1]) == set(world.params)
  assert 'teacher' not in world.params
  assert set(world.frozen) == {'teacher'}


def test_every_parameter_has_a_gradient(backward):
  """But what moves all keys, or a whole standardised channel, alike."""
  dead = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, x in jax.tree_util.tree_leaves_with_path(backward[1])
    if np.abs(x).max() < 1e-6
  ]
  assert dead == [
    'decoders_pool/k/bias',
    'decoders_pool/norm_k/bias',
    'decoders_project/layers/fc2/bias',
  ]


def test_the_average_holds_the_decoders_that_project(world):
  assert set(world.fresh.ema) == {'encoder', 'decoders_projected'}
  assert world.objective.averaged == ('encoder', 'decoders_projected')
  # Those of targets that it makes: none here.
  table = dict(category=small.CATEGORY)
  assert small.small_objective(small.small_config(table)).averaged == ()


def test_a_target_is_the_projection_by_the_average(world):
  """Of clean, whole views, the mean of the last two blocks' tokens."""
  images = {'b': np.float32(small.draw_batch(5)['b']['image']) / 255}
  features = world.teachers.features(world.objective)['ema'](images)
  encoder = world.objective.encoder
  own = encoder.apply({'params': world.ema['encoder']}, images['b'], last=2)
  wanted = world.objective.decoders['projected'].apply(
    {'params': world.ema['decoders_projected']}, own, method='project'
  )
  np.testing.assert_allclose(
    features['b']['projected']['projected'], wanted, rtol=0, atol=1e-5
  )
  one = encoder.apply({'params': world.ema['encoder']}, images['b'])
  assert np.abs(one['tokens'] - own['tokens']).max() > 0.01


def test_a_step_moves_average_and_centre_and_leaves_the_teacher(world):
  step = make_train_step(
    world.objective, world.optimizer, lambda _: jnp.float32(0.75), 0
  )
  centre = lambda s: s.running['targets_dino']['regularizer']['centre']
  np.testing.assert_array_equal(centre(world.fresh), np.zeros(48))
  before = world.fresh.replace(
    params=world.params, ema=world.ema, frozen=world.frozen
  )
  after, measured = jax.jit(step)(before, world.batch)
  small.same(
    after.ema,
    jax.tree.map(
      lambda xi, theta: 0.75 * xi + 0.25 * theta,
      world.ema,
      {k: world.params[k] for k in world.ema},
    ),
    1e-6,
  )
  jax.tree.map(np.testing.assert_array_equal, after.frozen, world.frozen)
  assert np.abs(centre(after)).max() > 1e-3
  assert {f'loss/{name}' for name in TARGETS} < measured.keys()


def test_no_mesh_changes_loss_or_gradient(world, backward):
  """A picture a device: batch norm and candidates are those of all devices."""
  mesh = sharding.make_mesh(2, 4)
  with jax.set_mesh(mesh):
    everywhere = sharding.replicated(mesh)
    put = functools.partial(jax.device_put, device=everywhere)
    batch = sharding.put(world.batch, sharding.batch_sharding(mesh), 8)
    got = jax.jit(world.loss_and_gradient)(
      put(world.params), put(world.teachers), batch
    )
    got = jax.device_get(got)
  np.testing.assert_allclose(got[0], backward[0], rtol=1e-6)
  small.same(got[1], backward[1], 1e-5)
  for key, value in backward[4].items():
    np.testing.assert_allclose(
      got[4][key], value, rtol=1e-4, atol=1e-6, err_msg=key
    )
  small.same(got[2], backward[2], 1e-6)
