"""The objective against section 3.4 and eq. 13 in independent forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import views
from m3i_jax.balance import GradientNorm
from m3i_jax.gradient import Teachers, loss_and_gradient
from tests import paper, small
from tests.world import KEY, PARTNER, TABLES, World, changes, with_other


@pytest.fixture(scope='module')
def m3i():
  return World('m3i')


def term(reference, name, row, world):
  """-log P of one row of the table, by the paper."""
  values = []
  for c in row.get('components', (0,)):
    if name == 'category':
      values.append(reference.category(world.batch['label'], c))
    elif name == 'text':
      values.append(reference.text(world.batch['text'], c))
    else:
      hidden = row.get('cells') == 'hidden'
      pixels = row.representation == 'pixels'
      values.append(reference.dense(row.of, c, hidden, pixels))
  return np.mean(values)


@pytest.mark.parametrize('table', list(TABLES))
def test_the_loss_is_the_papers(table, request):
  """Float32 against float64: within 1e-5 of the value."""
  world = request.getfixturevalue('m3i') if table == 'm3i' else World(table)
  sample = world.sample(world.batch, world.ema)
  losses = world.losses(world.params, sample)
  seen = {
    k: dict(image=v.image, box=v.box, flip=v.flip)
    for k, v in sample.views.items()
  }
  reference = paper.M3I(
    world.params, world.ema, seen, sample.mixed.mask,
    mixed=world.objective.input.images == 2,
  )  # fmt: skip
  total = {'ssp': 0.0, 'sp': 0.0}
  for name, row in world.config.targets.items():
    group = 'ssp' if row.of in ('a', 'b') else 'sp'
    wanted = term(reference, name, row, world)
    total[group] += wanted
    got = losses[group][1][f'loss/{name}']
    np.testing.assert_allclose(got, wanted, rtol=1e-5, err_msg=name)
  for group, (value, _) in losses.items():
    np.testing.assert_allclose(value, total[group], rtol=1e-5)


@pytest.fixture(scope='module')
def backward(m3i):
  """`loss_and_gradient` of the small M3I, gbar at .3 and .2 before."""
  state = {'g_u': jnp.float32(0.3), 'g_m': jnp.float32(0.2)}
  return jax.jit(
    lambda p: loss_and_gradient(
      m3i.objective, p, Teachers(m3i.ema, {}), {}, state, m3i.batch, KEY
    )
  )(m3i.params)


def test_the_gradient_is_that_of_the_weighted_sum(m3i, backward):
  """Eq. 13 with lambda held: one pull-back equals plain autodiff."""
  loss, gradient, _, new, measured = backward
  sample = m3i.sample(m3i.batch, m3i.ema)
  encode = lambda p: m3i.apply(
    {'params': p}, sample, False, method='encode'
  )

  def sides(push, params):
    """L_SSP and L_SP when `push` is added to the input features."""
    z_x = jax.tree.map(jnp.add, encode(params), push)
    losses = [
      m3i.apply({'params': params}, z_x, sample, g, method='group_loss')[0]
      for g in ('ssp', 'sp')
    ]
    return losses, losses

  still = jax.tree.map(jnp.zeros_like, jax.eval_shape(encode, m3i.params))
  sides, (ssp, sp) = jax.jit(jax.jacrev(sides, (0, 1), has_aux=True))(
    still, m3i.params
  )
  keys, before = ('g_u', 'g_m'), (0.3, 0.2)
  for key, gbar, (push, _) in zip(keys, before, sides, strict=True):
    size = np.sqrt(sum((np.float64(x) ** 2).sum() for x in push.values()))
    np.testing.assert_allclose(measured[key], size, rtol=1e-5)
    np.testing.assert_allclose(new[key], 0.99 * gbar + 0.01 * size, rtol=1e-5)
  lambda_ = float(new['g_u'] / new['g_m'])
  np.testing.assert_allclose(measured['lambda'], lambda_, rtol=1e-6)
  np.testing.assert_allclose(loss, ssp + lambda_ * sp, rtol=1e-6)
  np.testing.assert_array_equal(loss, measured['loss'])
  wanted = jax.tree.map(lambda u, m: u + lambda_ * m, sides[0][1], sides[1][1])
  small.same(gradient, wanted, 1e-5)


def test_every_parameter_has_a_gradient(backward):
  """But what moves all keys alike, which a softmax cannot see."""
  dead = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, x in jax.tree_util.tree_leaves_with_path(backward[1])
    if np.abs(x).max() < 1e-6
  ]
  assert dead == ['decoders_pool/k/bias', 'decoders_pool/norm_k/bias']


def test_no_gradient_reaches_the_target_encoder_or_its_views(m3i):
  def loss(ema, image):
    batch = m3i.batch | {'b': m3i.batch['b'] | {'image': image}}
    state = m3i.objective.balance.init()
    teachers = Teachers(ema, {})
    return loss_and_gradient(
      m3i.objective, m3i.params, teachers, {}, state, batch, KEY
    )[0]

  image = np.float32(m3i.batch['b']['image']) / 255
  for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(m3i.ema, image)):
    np.testing.assert_array_equal(leaf, 0.0)
  # They are read, though.
  other = jax.tree.map(lambda x: 1.1 * x, m3i.ema)
  losses = [
    m3i.losses(m3i.params, m3i.sample(batch, ema))['ssp'][0]
    for batch, ema in (
      (m3i.batch, m3i.ema),
      (with_other(m3i.batch, 'b', 'image', 0), m3i.ema),
      (m3i.batch, other),
    )
  ]
  assert np.abs(np.diff(losses)).min() > 1e-4


def test_full_attention_crosses_the_images_of_a_mix(m3i):
  moved = changes(m3i, with_other(m3i.batch, 'a', 'image', 1))
  for name, by_component in moved.items():
    for component, rows in by_component.items():
      wanted = np.arange(8) < 2
      np.testing.assert_array_equal(rows, wanted, f'{name} {component}')


def test_the_encoder_sees_the_mix(m3i):
  """m * x_i + (1 - m) * x_j, pixel by pixel, m constant on patches."""
  sample = m3i.sample(m3i.batch, m3i.ema)
  image = np.asarray(views.normalize(sample.views['a'].image))
  grid = np.asarray(sample.mixed.mask).reshape(8, small.GRID, small.GRID)
  m = grid.repeat(small.PATCH, 1).repeat(small.PATCH, 2)[..., None]
  wanted = m * image + (1 - m) * image[PARTNER]
  np.testing.assert_allclose(sample.mixed.image, wanted, rtol=0, atol=1e-6)
  assert (grid.sum((1, 2)) == small.OWNED).all()
  assert len({tuple(row.reshape(-1)) for row in grid}) > 4


def test_the_balance_is_the_configured_one(m3i):
  assert m3i.objective.balance == GradientNorm(gamma=1.0, decay=0.99)
  assert m3i.objective.groups == ('ssp', 'sp')
  assert m3i.objective.view_letters == ('a', 'b')
