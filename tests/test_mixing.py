"""Un-mixing: what each image of a mix is asked, and what its answer knows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import views
from tests import paper, small
from tests.world import PARTNER, World, changes, with_other


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


def test_unmixing_gives_each_image_its_own_tokens(alone):
  """Picture 1 is the first image of input 1 and the second of input 0."""
  moved = changes(alone, with_other(alone.batch, 'a', 'image', 1))
  assert set(moved) == {'intra', 'inter', 'category', 'text'}
  for name, by_component in moved.items():
    for component, rows in by_component.items():
      wanted = np.arange(8) == (1 if component == 0 else 0)
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
