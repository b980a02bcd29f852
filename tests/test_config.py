import pathlib

import jax
import numpy as np
import pytest

from m3i_jax import build, config, models
from m3i_jax.errors import UserError
from m3i_jax.step import init_state, make_train_step, zero_batch
from tests import small

FILE = pathlib.Path(__file__).parents[1] / 'configs/vitb.py'


def vitb(arg: str = ''):
  space = {}
  exec(compile(FILE.read_text(), str(FILE), 'exec'), space)
  return space['get_config'](arg)


def told(c, *words, classes=small.CLASSES, vocabulary=small.VOCABULARY):
  """Building the config fails in one line that holds all of the words."""
  with pytest.raises(UserError) as error:
    build.build(c, classes, vocabulary)
  message = str(error.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message


def at(c, path: str):
  for key in path.split('.'):
    c = c[key]
  return c


def put(c, path: str, value):
  parent, _, key = path.rpartition('.')
  (at(c, parent) if parent else c)[key] = value


@pytest.mark.parametrize(
  'where, key, nearest',
  [
    ('targets.inter', 'componets', 'components'),
    ('targets.category.distribution', 'smoothin', 'smoothing'),
    ('targets.text.representation', 'hiden', 'hidden'),
    ('decoders.dense', 'head', 'heads'),
    ('decoders.pool', 'outt', 'out'),
    ('balance', 'gama', 'gamma'),
  ],
)
def test_a_misspelt_key_is_told_with_the_nearest(where, key, nearest):
  c = small.small_config()
  with at(c, where).unlocked():
    at(c, where)[key] = 1
  told(c, f'config.{where}', repr(key), repr(nearest))


@pytest.mark.parametrize(
  'where, key', [('optimizer', 'lr'), ('input', 'masks'), ('ema', 'begin')]
)
def test_other_sections_take_no_new_keys(where, key):
  c = config.default()
  with pytest.raises((KeyError, AttributeError)):
    at(c, where)[key] = 1


@pytest.mark.parametrize(
  'where, kind, nearest',
  [
    ('targets.inter.distribution', 'gausian', 'gaussian'),
    ('targets.inter.representation', 'dens', 'dense'),
    ('targets.inter.regularizer', 'stop_grad', 'stop_gradient'),
    ('targets.category.predictor', 'layernorm', 'layer_norm'),
    ('decoders.dense.kind', 'denze', 'dense'),
    ('balance.kind', 'gradient', 'gradient_norm'),
  ],
)
def test_an_unknown_kind_is_told_with_the_nearest(where, kind, nearest):
  c = small.small_config()
  put(c, where, kind)
  told(c, f'config.{where.removesuffix(".kind")}', kind, repr(nearest))


@pytest.mark.parametrize(
  'where',
  [
    'targets.inter.of',
    'targets.inter.decoder',
    'targets.inter.representation',
    'targets.inter.distribution',
    'decoders.dense.kind',
  ],
)
def test_a_missing_field_is_named(where):
  c = small.small_config()
  parent, key = where.rsplit('.', 1)
  with at(c, parent).unlocked():
    del at(c, parent)[key]
  told(c, f'config.{where} is missing')


@pytest.mark.parametrize(
  'where, value, words',
  [
    ('targets.inter.decoder', 'dens', ('config.decoders', 'dense, pool')),
    ('targets.inter.of', 'label', ('does not fit', 'targets.inter')),
    ('targets.inter.of', 'c', ('does not fit', 'targets.inter')),
    ('targets.category.of', 'text', ('does not fit', 'targets.category')),
    ('targets.inter.components', (2,), ('components', 'images=2')),
    ('targets.intra.cells', 'hiden', ("'hiden'", 'all, hidden')),
    ('targets.inter.cells', 'hidden', ("of='a'", "cells='all'")),
    ('targets.inter.components', (), ('components', 'images=2')),
    ('targets.text.representation.pool', 'men', ("'men'", 'cls, mean')),
    ('targets.category.distribution.symmetric', True, ('symmetric', 'text')),
    ('decoders.pool.heads', 3, ('decoders.pool.heads=3', '32')),
    ('decoders.dense.width', 26, ('multiple of 4',)),
    ('input.view', 'c', ("'c'", 'a, b')),
    ('model.positions', 'learnt', ("'learnt'", 'learned')),
    ('data.text_length', 600, ('text_length=600', '512')),
    ('decoders.pool.out', 24, ('20 wide', 'predicts 24')),
    ('input.mask', 0.4, ('config.input.mask=0.4', '0.5')),
    ('input.images', 3, ('images=3',)),
    ('input.pattern', 'blok', ("'blok'", "'block'")),
    ('model.name', 'vitt', ('config.model.name',)),
    ('model.variant', 'C', ('config.model.variant',)),
    ('model.remat', 'all', ('config.model.remat',)),
    ('model.dtype', 'float16', ('config.model.dtype', 'bfloat16')),
    ('model.width', 0, ('config.model.width is missing',)),
    ('model.heads', 5, ('config.model.heads=5', '32')),
    ('image_size', 36, ('config.image_size=36', '8')),
    ('image_size', 40, ('even number', '25')),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_told(where, value, words):
  c = small.small_config()
  put(c, where, value)
  told(c, *words)


def test_data_without_the_target_is_told():
  said = "config.targets.{} predicts the {}: name the field of data set {}"
  data = repr(small.small_config().data.source)
  label = said.format('category', 'label', data)
  told(small.small_config(), label, 'config.data.label', classes=0)
  text = said.format('text', 'text', data)
  told(small.small_config(), text, 'config.data.text', vocabulary=0)


def test_hidden_cells_need_a_mask():
  table = dict(intra=small.M3I['intra'])
  told(
    small.small_config(table, images=1, mask=0.0), 'config.input.mask'
  )


def test_a_decoder_may_be_its_kind_alone():
  c = small.small_config(dict(category=small.CATEGORY), images=1, mask=0.0)
  c.decoders = dict(pool='pool')
  assert build.build(c, 7).decoders['pool'].out == 32
  config.debug(c)
  assert build.build(c, 7).decoders['pool'].heads == 2


@pytest.mark.parametrize(
  'batch, devices, images, unit',
  [(12, 8, 1, 8), (8, 8, 2, 16), (20, 8, 2, 16), (7, 1, 2, 2)],
)
def test_a_batch_that_does_not_divide_is_told(batch, devices, images, unit):
  c = small.small_config()
  c.batch_size, c.input.images = batch, images
  with pytest.raises(UserError, match=f'config.batch_size={batch}.* of {unit}'):
    config.check(c, devices)
  c.batch_size = 2 * unit
  config.check(c, devices)


@pytest.mark.parametrize(
  'key', ['batch_size', 'total_steps', 'log_every', 'keep']
)
def test_sizes_are_positive(key):
  c = small.small_config()
  c[key] = 0
  with pytest.raises(UserError, match=f'config.{key}=0'):
    config.check(c, 1)


def test_a_run_needs_a_source_and_a_target():
  c = small.small_config()
  c.data.source = ''
  with pytest.raises(UserError, match='no data: --config.data=DIR'):
    config.check(c, 1)
  c = small.small_config({})
  with pytest.raises(UserError, match='config.targets'):
    config.check(c, 1)


def test_differences_are_those_that_change_a_result():
  old = config.as_json(vitb())
  assert config.differences(old, config.as_json(vitb())) == []
  c = vitb()
  c.mesh.fsdp, c.log_every, c.data.threads = 4, 7, 3
  assert config.differences(old, config.as_json(c)) == []
  c.optimizer.learning_rate = 0.5
  c.targets.inter.components = (0,)
  del c.targets.category
  changed = config.differences(old, config.as_json(c))
  assert 'config.optimizer.learning_rate: 0.001 -> 0.5' in changed
  assert 'config.targets.inter.components: [1] -> [0]' in changed
  assert "config.targets.category.of: label -> absent" in changed
  assert all(
    line.split('.')[1:3] in (['targets', 'inter'], ['targets', 'category'])
    or 'learning_rate' in line
    for line in changed
  )


def test_an_unknown_variant_is_told():
  with pytest.raises(UserError, match="'debugg'.*debug"):
    vitb('debugg')


def test_debug_is_tiny():
  c = vitb('debug')
  config.check(c, 8)
  objective = build.build(c, classes=3)
  assert (objective.encoder.width, objective.encoder.patch) == (32, 8)
  shapes = _shapes(c, objective)
  size = sum(x.size for x in jax.tree.leaves(shapes.params))
  assert size < 100_000


def test_vitb_is_table_7():
  c = vitb()
  objective = build.build(c, classes=1000)
  encoder, dense = objective.encoder, objective.decoders['dense']
  pool, optimizer = objective.decoders['pool'], build.optimizer(c)
  assert (dense.depth, dense.width, dense.hidden, dense.heads) == (
    4, 768, 3072, 16,
  )  # fmt: skip
  assert (encoder.width, pool.out, pool.heads) == (768, 768, 16)
  assert (objective.input.mask, objective.input.pattern) == (0.5, 'block')
  assert objective.input.images == 2
  assert (c.image_size, encoder.patch, encoder.depth) == (224, 16, 12)
  assert c.batch_size == 4096
  assert c.total_steps == 1600 * (1_281_167 // 4096)
  assert (optimizer.b1, optimizer.b2) == (0.9, 0.95)
  assert optimizer.learning_rate == 1e-3
  assert optimizer.weight_decay == 0.1
  rate = optimizer.schedule(c.total_steps)
  np.testing.assert_allclose(rate(40 * 312), 1e-3, rtol=1e-6)
  np.testing.assert_allclose(rate(20 * 312), 5e-4, rtol=1e-6)
  assert rate(0) == 0 and abs(rate(c.total_steps)) < 1e-9
  assert dict(c.ema) == dict(start=0.995, end=1.0)
  assert objective.targets['category'].distribution.smoothing == 0.1
  assert (encoder.drop_path, encoder.uniform) == (0.1, False)
  assert objective.balance.gamma == 1.0
  a, b = objective.colours['a'], objective.colours['b']
  assert min(a.jitter, a.gray, a.blur, b.jitter, b.gray, b.blur) > 0
  assert (a.solarize, b.solarize) == (0.0, 0.2)


def test_vitb_has_the_known_numbers_of_parameters():
  """Counts of the same modules elsewhere; see the paper's Table 7 for sizes."""
  c = vitb()
  params = _shapes(c, build.build(c, classes=1000)).params
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  width, hidden, patch = 768, 3072, 3 * 16**2
  block = 4 * width**2 + 2 * width * hidden + 9 * width + hidden
  # timm's ViT-B/16 without head, final norm and learned positions.
  timm = 86_567_656 - 769_000 - 2 * width - 197 * width
  assert count(params['encoder']) == timm == 12 * block + width * (patch + 2)
  dense, pool = params['decoders_dense'], params['decoders_pool']
  assert count(dense['blocks']) == 4 * block == 28_351_488
  assert dense['position_kernel'].size == 1_179_648
  projections = {k: pool[k] for k in ('q', 'k', 'v', 'proj')}
  assert count(projections) == 2_362_368
  assert count(pool) == 2_362_368 + 3 * 2 * width
  assert count(params['targets_category']) == 1000 * 769 + 2 * width


def convnet(name='convnext', **fields):
  """A tiny ConvNet in a small M3I; fields change config.model."""
  c = small.small_config(small.M3I)
  c.image_size = 64
  tiny = models.TINY[name] | fields
  c.model = config.backbone(name, dtype='float32', **tiny)
  return c


@pytest.mark.parametrize('name', ['convnext', 'internimage'])
def test_a_convnet_is_a_backbone_like_any(name):
  """M3I's step on one, hidden cells asked of the other picture's."""
  c = convnet(name)
  objective = small.small_objective(c)
  theta = objective.encoder
  assert (theta.width, theta.patch, theta.stride, theta.whole) == (
    32, 16, 32, True
  )  # fmt: skip
  optimizer = build.optimizer(c).build(10)
  batch = zero_batch(8, 64, objective.view_letters, 6)
  state = jax.eval_shape(lambda: init_state(objective, optimizer, 0, batch))
  step = make_train_step(objective, optimizer, lambda _: 0.99, seed=0)
  assert jax.eval_shape(step, state, batch)[1]['loss'].shape == ()


def test_a_convnet_needs_all_cells():
  c = convnet()
  del c.targets['inter']
  c.input.update(images=1, mask=0.5, hidden='drop')
  for row in c.targets.values():
    row.components = (0,)
  with pytest.raises(UserError, match="config.input.hidden='fill'"):
    small.small_objective(c)
  c.input.hidden = 'fill'
  small.small_objective(c)


@pytest.mark.parametrize(
  'name, field, value, words',
  [
    ('convnext', 'dpeths', (1, 1, 1, 1), "did you mean 'depths'"),
    ('internimage', 'impl', 'onehott', 'choose from auto, corners'),
    ('internimage', 'variant', 'XXL', "choose from ['T'"),
    ('internimage', 'impl', '', 'choose from auto'),
  ],
)
def test_a_field_of_a_convnet_is_checked(name, field, value, words):
  c = convnet(name)
  with c.unlocked():
    c.model[field] = value
  with pytest.raises(UserError) as told_:
    build.encoder(c)
  assert words in str(told_.value)


def test_an_image_fits_the_last_stride():
  c = convnet()
  c.image_size = 48
  with pytest.raises(UserError, match='no multiple of the stride 32'):
    build.encoder(c)


def test_a_variant_is_what_is_left_at_its_default():
  vit = build.backbone(config.backbone('vit', 'L', depth=3), 224)
  assert (vit.width, vit.depth, vit.patch) == (1024, 3, 16)
  large = build.backbone(config.backbone('internimage', 'L'), 64)
  assert (large.channels, large.offset_scale, large.post_norm) == (
    160, 2.0, True
  )  # fmt: skip
  other = config.backbone('internimage', 'L', offset_scale=1.5)
  assert build.backbone(other, 64).offset_scale == 1.5
  assert large.num_classes == 0


def test_variants_are_the_published_sizes():
  vit = models.backbone('vit', 'L')
  assert (vit.width, vit.depth, vit.heads, vit.hidden) == (1024, 24, 16, 4096)


def _shapes(c, objective):
  batch = zero_batch(2, c.image_size, objective.view_letters)
  optimizer = build.optimizer(c).build(c.total_steps)
  return jax.eval_shape(lambda: init_state(objective, optimizer, 0, batch))
