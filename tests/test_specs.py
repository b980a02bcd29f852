"""Values of another type, or beyond their bounds, are told in a line."""

import pytest

from m3i_jax import build, config
from m3i_jax.errors import UserError
from tests import small
from tests.test_config import put, told


@pytest.mark.parametrize(
  'where, value, must',
  [
    ('targets.inter.components', 0, 'a tuple'),
    ('targets.inter.components', (0.0,), 'a tuple, each a whole number'),
    ('targets.inter.components', (-1,), 'images=2'),
    ('targets.inter.weight', -1.0, 'at least 0'),
    ('targets.inter.weight', float('nan'), 'at least 0'),
    ('targets.inter.weight', 'high', 'a number'),
    ('targets.inter', 'dense', 'a row is a dict'),
    ('targets.inter.representation', 3, 'give a kind'),
    ('targets.text.distribution.temperature', 0.0, 'more than 0'),
    ('targets.text.distribution.learned', 1, 'True or False'),
    ('targets.text.distribution.block', 0, 'at least 1'),
    ('targets.text.representation.heads', 0, 'at least 1'),
    ('targets.category.distribution.smoothing', 2.0, 'from 0 to 1'),
    ('decoders.dense.projector', -1, 'at least 0'),
    ('decoders.dense.depth', 0, 'at least 1'),
    ('decoders.dense.width', 'wide', 'a whole number'),
    ('decoders.pool.heads', 0, 'at least 1'),
    ('decoders.pool', 3, 'give a kind'),
    ('balance.decay', 2.0, 'from 0 to 1'),
    ('model.depth', -1, 'at least 1'),
    ('model.drop_path', 1.0, 'less than 1'),
    ('views.a.flip', 2.0, 'from 0 to 1'),
    ('features', 'dense', '(pool)'),
    ('features', 'none', 'the mean of the tokens'),
    ('data.text_length', 2, 'the first and the last piece'),
  ],
)
def test_values_that_cannot_be_are_told(where, value, must):
  c = small.small_config()
  with c.ignore_type(), c.unlocked():
    put(c, where, value)
  section = where if where.count('.') < 2 else where.rpartition('.')[0]
  told(c, f'config.{section}', must)


@pytest.mark.parametrize(
  'where, value',
  [('panel.examples', -2), ('eval_every', -1), ('ema.start', 1.5)],
)
def test_more_that_the_config_alone_tells(where, value):
  c = small.small_config()
  put(c, where, value)
  with pytest.raises(UserError, match=f'config.{where}={value}'):
    config.check(c, 1)


def test_the_features_need_a_target_that_trains_them():
  c = small.small_config(dict(inter=small.M3I['inter']))
  c.decoders.pool = dict(kind='pool', out=20, heads=4)
  assert build.build(c)
  c.features = 'pool'
  told(c, "config.features='pool'", 'none does')
