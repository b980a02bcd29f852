"""The objective against section 3.4 and eq. 13 in independent forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import views
from m3i_jax.balance import GradientNorm
from m3i_jax.gradient import Teachers, loss_and_gradient
from m3i_jax.optim import Optimizer
from m3i_jax.step import init_state
from tests import paper, small

KEY = jax.random.key(3)
PARTNER = np.arange(8) ^ 1
# Both views by both images, beside the four targets of the paper.
BOTH = {
  name: row | dict(components=(0, 1)) for name, row in small.M3I.items()
}
ONE = {name: row | dict(components=(0,)) for name, row in small.M3I.items()}
PIXELS = dict(representation='pixels', decoder='dense', distribution='gaussian')
TABLES = {
  'm3i': (small.M3I, {}),
  'both': (BOTH, dict(pattern='random')),
  'no_mix': (ONE, dict(images=1)),
  'pixels': (
    dict(inter=PIXELS | dict(of='b'), intra=PIXELS | dict(of='a')),
    dict(images=1, mask=0.75),
  ),
}


class World:
  """One objective with parameters and a batch, everything jitted once."""

  def __init__(self, table: str, encoder: nn.Module | None = None):
    targets, input_ = TABLES[table]
    self.config = small.small_config(targets, **input_)
    self.objective = small.small_objective(self.config)
    if encoder:
      self.objective = self.objective.clone(encoder=encoder)
    self.batch = small.draw_batch()
    init = lambda: init_state(
      self.objective, Optimizer().build(10), 0, self.batch
    )
    state = jax.jit(init)()
    self.params = small.perturbed(state.params)
    self.ema = small.perturbed(state.ema, seed=1)
    self.apply = self.objective.apply
    self.sample = jax.jit(self._sample)
    self.losses = jax.jit(self._losses)
    self.predict = jax.jit(self._predict)

  def _sample(self, batch, ema):
    """As `loss_and_gradient` draws it from KEY."""
    features = Teachers(ema, {}).features(self.objective)
    return self.objective.sample(batch, features, jax.random.split(KEY)[0])

  def _losses(self, params, sample):
    variables = {'params': params}
    z_x = self.apply(variables, sample, False, method='encode')
    return {
      group: self.apply(variables, z_x, sample, group, method='group_loss')
      for group in self.objective.groups
    }

  def _predict(self, params, sample):
    variables = {'params': params}
    z_x = self.apply(variables, sample, False, method='encode')
    predictions = {}
    for group in self.objective.groups:
      predictions |= self.apply(
        variables, z_x, sample, group, method='predict'
      )
    return predictions


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


class Alone(nn.Module):
  """An encoder whose tokens know nothing of each other."""

  width: int = 32
  patch: int = small.PATCH

  @nn.compact
  def __call__(self, image, cells=None, *, train=False, last=1):
    x = views.patches(image, self.patch)
    if cells is not None:
      x = jnp.take_along_axis(x, cells[..., None], axis=1)
    return {'tokens': nn.Dense(self.width)(x)}


@pytest.fixture(scope='module')
def alone():
  return World('both', Alone())


def with_other(batch, letter, key, picture):
  """The batch with one field of one picture's view replaced."""
  view = dict(batch[letter])
  value = np.array(view[key])
  value[picture] = {
    'image': lambda x: 255 - x,
    'box': lambda x: x * np.float32([1, 1, 0.5, 0.5]),
    'flip': lambda x: ~x,
  }[key](value[picture])
  return batch | {letter: view | {key: value}}


def changes(world, batch):
  """{target: {component: bool [B]}}, which predictions another batch moves."""
  old, new = (
    world.predict(world.params, world.sample(b, world.ema))
    for b in (world.batch, batch)
  )
  differ = lambda x, y: np.array(
    [np.abs(x[n] - y[n]).max() > 1e-4 for n in range(len(x))]
  )
  return jax.tree.map(differ, old, new)


def test_unmixing_gives_each_image_its_own_tokens(alone):
  """Picture 1 is the first image of input 1 and the second of input 0."""
  moved = changes(alone, with_other(alone.batch, 'a', 'image', 1))
  assert set(moved) == {'intra', 'inter', 'category', 'text'}
  for name, by_component in moved.items():
    for component, rows in by_component.items():
      wanted = np.arange(8) == (1 if component == 0 else 0)
      np.testing.assert_array_equal(rows, wanted, f'{name} {component}')


def test_full_attention_crosses_the_images_of_a_mix(m3i):
  moved = changes(m3i, with_other(m3i.batch, 'a', 'image', 1))
  for name, by_component in moved.items():
    for component, rows in by_component.items():
      wanted = np.arange(8) < 2
      np.testing.assert_array_equal(rows, wanted, f'{name} {component}')


@pytest.mark.parametrize(
  'letter, key', [('b', 'box'), ('b', 'flip'), ('a', 'box'), ('a', 'flip')]
)
def test_the_partners_place_is_its_own(alone, letter, key):
  """Its boxes and flips move what is asked of its tokens, and that alone."""
  moved = changes(alone, with_other(alone.batch, letter, key, 1))
  for name in ('inter', 'intra'):
    for component, rows in moved[name].items():
      # Intra-view, input and target move together.
      seen = name == 'inter'
      wanted = (np.arange(8) == (1 if component == 0 else 0)) & seen
      np.testing.assert_array_equal(rows, wanted, f'{name} {component}')
  assert not any(x.any() for x in jax.tree.leaves(moved['category']))


@pytest.mark.parametrize('component', [0, 1])
def test_targets_are_those_of_the_picture_asked(alone, component):
  """Every field of z_y, and the hidden cells one by one."""
  sample = alone.sample(alone.batch, alone.ema)
  picture = PARTNER if component else np.arange(8)
  z, asked = {}, {}
  for group in alone.objective.groups:
    z |= alone.apply(
      {'params': alone.params}, {}, sample, group, method='represent'
    )
  for name, value in z.items():
    asked[name] = alone.objective.bind({}).asked(
      name, value, sample, component
    )
  mask = np.asarray(sample.mixed.mask)
  for n in range(8):
    hidden = np.flatnonzero(mask[n] if component else ~mask[n])
    value = paper.standardise(
      np.float64(sample.y['ema']['a']['tokens'][picture[n]]), 1e-5
    )
    got = asked['intra'].value[n]
    np.testing.assert_allclose(got, value[hidden], rtol=0, atol=1e-5)
    value = paper.standardise(
      np.float64(sample.y['ema']['b']['tokens'][picture[n]]), 1e-5
    )
    got = asked['inter'].value[n]
    np.testing.assert_allclose(got, value, rtol=0, atol=1e-5)
  label, text = alone.batch['label'][picture], alone.batch['text'][picture]
  category = asked['category']
  np.testing.assert_array_equal(category.valid, label >= 0)
  np.testing.assert_array_equal(category.index, np.maximum(label, 0))
  assert category.candidates.shape == (small.CLASSES, 20)
  np.testing.assert_array_equal(asked['text'].valid, text.any(-1))
  vectors = alone.apply(
    {'params': alone.params}, text, 'text', method='embed'
  )
  np.testing.assert_allclose(asked['text'].value, vectors, rtol=0, atol=1e-5)


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
