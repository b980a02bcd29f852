"""Which data a config means: one source, or a mixture with its own keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import emoji, vitb_joint
from m3i_jax import build, dataset, recipes
from m3i_jax.errors import UserError


def mixed(**sources):
  c = emoji.get_config('debug')
  c.data.update(source='', label='label', text='caption', tags='tags')
  c.data.sources = sources
  return c


def test_a_source_takes_what_it_has_of_the_common_fields():
  c = mixed(
    drawn=dict(source='synthetic:64', text='', weight=1),
    emoji=dict(source='emoji', label='group', weight=3),
  )
  source = dataset.open_split(c, 'train')
  assert len(source) == 64 + 2608 and source.shares == (1.0, 3.0)
  assert len(source.classes) == 24 + 8
  drawn, one = source[0], source[64]
  assert drawn['tags'] and not drawn['text']
  # There is no field 'tags', and it was not asked of this source alone.
  assert one['text'] and one['tags'] == ()
  alone = dataset.open_split(c, 'emoji/vendor')
  assert len(alone) == 1288 and len(alone.classes) == 8
  assert len(dataset.open_split(c, 'emoji/')) == 2608


def test_weights_are_sizes_unless_they_are_given():
  c = mixed(a=dict(source='synthetic:64'), b=dict(source='synthetic:32'))
  assert dataset.open_split(c, 'train').shares == (64.0, 32.0)
  c.data.sources.a.weight = 0
  assert len(dataset.open_split(c, 'train')) == 32
  assert len(dataset.open_split(c, 'a/test')) == 64  # still scored on


@pytest.mark.parametrize('sources, line', [
  (dict(a=dict(source='')), 'config.data.sources.a.source is empty'),
  (dict(a=dict(source='synthetic', wieght=2)), "did you mean 'weight'"),
  (dict(a=dict(weight=2)), 'config.data.sources.a.source is missing'),
  (dict(a=dict(source='synthetic', weight=-2)), 'must be at least 0'),
  (dict(a=dict(source='synthetic', weight=float('nan'))), 'must be at least 0'),
  (dict(a=dict(source='synthetic', weight='2')), 'it must be a number'),
  (dict(a=dict(source='synthetic', weight=2), b=dict(source='synthetic')),
   'give each a weight or none'),
  (dict(a=dict(source='synthetic', weight=0)), 'none has a weight above 0'),
  (dict(a=dict(source='synthetic', label='', text='')),
   'config.targets.category: none of a has a field'),
  (dict(a=dict(source='synthetic', label='kind')), "no field 'kind'"),
])  # fmt: skip
def test_mistakes_in_a_mixture(sources, line):
  with pytest.raises(UserError, match=line):
    dataset.open_split(mixed(**sources), 'train')


def test_a_split_of_a_mixture_names_its_source():
  c = mixed(a=dict(source='synthetic'), b=dict(source='synthetic'))
  with pytest.raises(UserError, match='such as a/test; there are a, b'):
    dataset.open_split(c, 'test')
  c.data.source = 'emoji'
  with pytest.raises(UserError, match="set config.data.source=''"):
    dataset.open_split(c, 'train')


def test_a_picture_without_a_field_is_not_there_for_its_target():
  """Eight pictures of which half have a label, and half a text."""
  c = vitb_joint.get_config('debug')
  c.input = dict(view='a', images=1, mask=0.0, pattern='random', hidden='drop')
  for view in (c.views.a, c.views.b):
    recipes.geometry(view, 0.2)
  del c.targets.intra, c.targets.inter
  for row in c.targets.values():
    row.components = (0,)
  method = build.build(c, 24, 60)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
  view = dict(
    image=image, box=np.tile(np.float32([0, 0, 1, 1]), (8, 1)),
    flip=np.zeros(8, bool),
  )  # fmt: skip
  label = np.int32([3, 9, 0, 20, -1, -1, -1, -1])
  text = rng.integers(4, 60, (8, 16), np.int32) * (np.arange(8) > 3)[:, None]
  batch = dict(a=view, label=label, text=text)
  key = jax.random.key(1)
  init = jax.jit(lambda: method.init(jax.random.key(0), batch, key))
  params = init()['params']

  def losses(rows):
    some = jax.tree.map(lambda x: jnp.asarray(x[rows]), batch)

    def total(params):
      value, metrics = method.apply({'params': params}, some, key)['sp']
      return value, metrics

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

  (both, told), slope = losses(slice(None))
  (labels, told_labels), slope_labels = losses(slice(0, 4))
  (texts, told_texts), slope_texts = losses(slice(4, 8))
  assert told_labels['loss/text'] == told_texts['loss/category'] == 0
  for one, other in (
    (told['loss/category'], told_labels['loss/category']),
    (told['loss/text'], told_texts['loss/text']), (both, labels + texts),
  ):  # fmt: skip
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert other > 1
  sums = jax.tree.map(lambda a, b: a + b, slope_labels, slope_texts)
  largest = max(float(abs(x).max()) for x in jax.tree.leaves(sums))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * largest),
    slope, sums,
  )
