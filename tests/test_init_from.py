"""config.init_from: what a start takes from files and runs, and refuses."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from configs import continue_vitb
from m3i_jax import (
  build,
  checkpoint,
  init_from,
  positions,
  step,
  train,
  weights,
)
from m3i_jax.errors import UserError
from m3i_jax.models.text import TextTower
from m3i_jax.optim import Optimizer
from tests import small

TEXT = dict(
  name='text', width=20, depth=1, heads=2, hidden=36, positions=9,
  vocabulary=small.VOCABULARY,
)  # fmt: skip


def make(seed=0, targets=small.M3I, **model):
  """(config, objective, its fresh state)."""
  c = small.small_config(targets)
  c.model.update(model)
  objective = small.small_objective(c)
  init = lambda: step.init_state(
    objective, Optimizer().build(10), seed, small.draw_batch()
  )
  return c, objective, jax.jit(init)()


@pytest.fixture(scope='module')
def world():
  return make()


@pytest.fixture(scope='module')
def encoder_file(tmp_path_factory, world):
  """A file of the same encoder, all of it perturbed, and its parameters."""
  c, _, state = world
  params = jax.device_get(small.perturbed(state.params['encoder'], seed=3))
  path = tmp_path_factory.mktemp('weights') / 'encoder.safetensors'
  weights.save(path, params, c.model.to_dict())
  return path, params


def equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def states(rows):
  return {row.name: row.state for row in rows}


def test_the_encoder_and_its_average_start_from_a_file(
  world, encoder_file, tmp_path, capsys
):
  _, objective, state = world
  path, params = encoder_file
  init_from.check(str(path), objective)
  new = init_from.start(str(path), state, objective, tmp_path / 'none')
  equal(new.params['encoder'], params)
  equal(new.ema['encoder'], params)
  for name in set(state.params) - {'encoder'}:
    equal(new.params[name], state.params[name])
  # A state is donated: no buffer may be in it twice.
  pointers = [
    x.addressable_data(0).unsafe_buffer_pointer()
    for x in jax.tree.leaves((new.params, new.ema))
    if x.size
  ]
  assert len(set(pointers)) == len(pointers)
  told = capsys.readouterr().err.splitlines()
  assert [line.split()[:2] for line in told] == [
    ['loaded', 'encoder/blocks'],
    ['loaded', 'encoder/cls_token'],
    ['loaded', 'encoder/patch_embed'],
  ]


def test_a_step_follows(world, encoder_file, tmp_path):
  _, objective, state = world
  path, _ = encoder_file
  own = jax.tree.map(jnp.copy, state)
  new = init_from.start(str(path), own, objective, tmp_path)
  train_step = step.make_train_step(
    objective, Optimizer().build(10), lambda _: 0.5, 0
  )
  _, metrics = jax.jit(train_step, donate_argnums=0)(new, small.draw_batch())
  assert np.isfinite(float(metrics['loss']))


def source(c, **model):
  return init_from.Source('FILE', c.model.to_dict() | model)


def encoder_of(c):
  """(module, fresh parameters) of a config's encoder."""
  net = build.encoder(c)
  image = np.zeros((1, c.image_size, c.image_size, 3), np.float32)
  return net, jax.jit(net.init)(jax.random.key(0), image)['params']


@pytest.mark.parametrize('ours', [True, False])
@pytest.mark.parametrize('theirs', [True, False])
def test_learned_positions_of_another_size(ours, theirs):
  c = small.small_config()
  c.model.update(positions='learned', class_token=theirs)
  found = jax.device_get(encoder_of(c)[1])
  c.image_size = 48
  c.model.class_token = ours
  net, wanted = encoder_of(c)
  new, rows = init_from.of_encoder(
    found, wanted, source(c, class_token=theirs), net
  )
  assert new['pos_embed'].shape == wanted['pos_embed'].shape
  cells = found['pos_embed'][:, int(theirs) :]
  grid = cells.reshape(1, 4, 4, -1)
  with jax.default_matmul_precision('highest'):
    resized = jax.image.resize(grid, (1, 6, 6, 32), 'cubic').reshape(1, 36, -1)
  np.testing.assert_allclose(
    new['pos_embed'][:, int(ours) :], resized, rtol=0, atol=1e-6
  )
  if ours:
    row = found['pos_embed'][:, :1] if theirs else np.zeros((1, 1, 32))
    np.testing.assert_array_equal(new['pos_embed'][:, :1], row)
  told = states(rows)
  assert told['encoder/pos_embed'] == 'reshaped'
  assert told['encoder/blocks'] == 'loaded'
  token = {(1, 1): 'loaded', (1, 0): 'fresh', (0, 1): 'left out', (0, 0): None}
  assert told.get('encoder/cls_token') == token[ours, theirs]


def test_fixed_positions_become_learned_ones():
  c = small.small_config()
  found = jax.device_get(encoder_of(c)[1])
  c.model.positions = 'learned'
  net, wanted = encoder_of(c)
  new, rows = init_from.of_encoder(
    found, wanted, source(c, positions='sincos'), net
  )
  np.testing.assert_array_equal(
    new['pos_embed'][0, 1:], positions.grid_sincos(4, 32)
  )
  assert not new['pos_embed'][0, 0].any()
  assert 'from now on learned' in next(r.why for r in rows if 'pos' in r.name)


def test_ends_are_left_out_or_fresh(encoder_file, world):
  _, params = encoder_file
  c, objective, state = world
  wanted = state.params['encoder']
  end = {'scale': np.ones(32), 'bias': np.ones(32)}
  new, rows = init_from.of_encoder(
    params | {'norm': end}, wanted, source(c), objective.encoder
  )
  equal(new, params)
  assert states(rows)['encoder/norm'] == 'left out'
  new, rows = init_from.of_encoder(
    params, wanted | {'norm': end}, source(c), objective.encoder
  )
  assert states(rows)['encoder/norm'] == 'fresh'
  assert new['norm'] is end


def test_a_body_that_does_not_fit_is_refused(encoder_file, world):
  _, params = encoder_file
  c, objective, state = world
  flat = traverse_util.flatten_dict(params, sep='/')
  name = 'blocks/layers/mlp/fc1/bias'
  for wrong in (
    {k: x for k, x in flat.items() if k != name},
    flat | {name: flat[name][:, 1:]},
    flat | {'blocks/layers/ls1/gamma': np.ones((2, 32))},
  ):
    found = traverse_util.unflatten_dict(wrong, sep='/')
    with pytest.raises(UserError, match='does not fit this config: encoder/bl'):
      init_from.of_encoder(
        found, state.params['encoder'], source(c), objective.encoder
      )


@pytest.mark.parametrize(
  ('model', 'said'),
  [
    (dict(width=48), "has width=48, and config.model 32: make them equal"),
    (dict(heads=4), 'has heads=4, and config.model 2'),
    (dict(patch=16), 'has patch=16'),
    (dict(eps=1e-12), 'has eps=1e-12'),
    (dict(layer_scale=1e-5), 'has a LayerScale: set config.model.layer_scale'),
    (TEXT | dict(heads=4), 'has heads=4, and config.targets.text.repr'),
    (dict(name='resnet'), "'resnet': choose from"),
    (dict(odd=1), 'config.model of these weights'),
  ],
)
def test_another_network_is_told_at_once(tmp_path, world, model, said):
  c, objective, _ = world
  path = tmp_path / 'other.safetensors'
  weights.save(path, {'a': np.zeros(1)}, c.model.to_dict() | model)
  with pytest.raises(UserError, match=said) as error:
    init_from.check(str(path), objective)
  assert '\n' not in str(error.value)


def test_what_is_no_file_is_told_at_once(tmp_path, world):
  _, objective, _ = world
  init_from.check('', objective)
  with pytest.raises(UserError, match='cannot read weights from'):
    init_from.check(f'{tmp_path}/no.safetensors', objective)
  with pytest.raises(UserError, match='no complete checkpoint in'):
    init_from.check(str(tmp_path), objective)


def test_nan_weights_are_refused(tmp_path, encoder_file, world):
  path, _ = encoder_file
  c, objective, state = world
  arrays = safetensors.numpy.load_file(path)
  arrays['patch_embed/proj/bias'][3] = np.nan
  bad = tmp_path / 'nan.safetensors'
  told = {'model': json.dumps(c.model.to_dict())}
  bad.write_bytes(safetensors.numpy.save(arrays, told))
  with pytest.raises(UserError, match='patch_embed/proj/bias has values'):
    init_from.start(str(bad), state, objective, tmp_path)


@pytest.mark.parametrize('vocabulary', [small.VOCABULARY, 51])
def test_a_text_tower(tmp_path, world, encoder_file, vocabulary):
  _, objective, state = world
  model = TEXT | dict(vocabulary=vocabulary, positions=80)
  net = TextTower(**{k: v for k, v in model.items() if k != 'name'})
  tokens = np.ones((1, 5), np.int32)
  params = jax.device_get(net.init(jax.random.key(5), tokens)['params'])
  path = tmp_path / 'text.safetensors'
  weights.save(path, params, model)
  both = f'{encoder_file[0]}, {path}'
  init_from.check(both, objective)
  # The objective's own table of positions is longer: 512.
  new = init_from.start(both, state, objective, tmp_path)
  equal(new.params['encoder'], encoder_file[1])
  tower = new.params['targets_text']['representation']['tower']
  old = state.params['targets_text']['representation']['tower']
  equal(tower['blocks'], params['blocks'])
  equal(tower['type'], params['type'])
  equal(tower['position'], old['position'])
  same = vocabulary == small.VOCABULARY
  equal(tower['word'], params['word'] if same else old['word'])


def test_longer_tables_of_a_text_tower_are_cut(world):
  c, _, state = world
  old = jax.device_get(state.params['targets_text']['representation']['tower'])
  longer = np.concatenate([old['position'], old['position'][:3]])
  found = old | {'position': longer + 1}
  new, rows = init_from.of_text(found, state.params, source(c), ['text'])
  equal(
    new['targets_text']['representation']['tower']['position'],
    old['position'] + 1,
  )
  why = [row.why for row in rows if row.state == 'reshaped']
  assert why == [f'the first {len(longer) - 3} of {len(longer)}']


def test_a_text_tower_needs_a_target(tmp_path):
  _, objective, _ = make(targets={'inter': small.M3I['inter']})
  path = tmp_path / 'text.safetensors'
  weights.save(path, {'word': np.zeros((2, 2))}, TEXT)
  with pytest.raises(UserError, match='is a text tower, and no target has one'):
    init_from.check(str(path), objective)


def test_all_that_fits_of_a_run(tmp_path, world):
  c, objective, state = world
  checkpoints = checkpoint.Checkpoints(tmp_path, every=1)
  other = small.perturbed(state.params, seed=9)
  other['targets_category'] = jax.tree.map(
    lambda x: x[1:], other['targets_category']
  )
  other['decoders_old'] = {'a': np.ones(3)}
  del other['decoders_dense']
  saved = state.replace(params=other)
  checkpoints.save(1, saved, json.loads(c.to_json_best_effort()))
  checkpoints.close()
  mine, theirs = tmp_path / 'mine', tmp_path / 'tokenizer.model'
  for tokenizer in (mine, theirs):
    tokenizer.write_bytes(b'words')
  init_from.check(str(tmp_path), objective)
  new = init_from.start(str(tmp_path), state, objective, mine)
  for name in ('encoder', 'decoders_pool', 'targets_text'):
    equal(new.params[name], other[name])
  equal(new.ema['encoder'], other['encoder'])
  for name in ('targets_category', 'decoders_dense'):
    equal(new.params[name], state.params[name])
  theirs.write_bytes(b'other words')
  new = init_from.start(str(tmp_path), state, objective, mine)
  equal(new.params['targets_text'], state.params['targets_text'])


def test_a_run_starts_from_a_file_and_goes_on_without_it(tmp_path, capsys):
  c = continue_vitb.get_config('debug')
  c.update(total_steps=1, evals={}, eval_every=0)
  c.panel.examples = 0
  c.optimizer.update(learning_rate=0.0, weight_decay=0.0)
  net, params = encoder_of(c)
  params = jax.device_get(small.perturbed(params))
  path = tmp_path / 'start.safetensors'
  weights.save(path, params, c.model.to_dict())
  c.init_from = str(path)
  assert train.train(c, str(tmp_path / 'run'))
  assert 'loaded  encoder/pos_embed' in capsys.readouterr().err
  run = str(tmp_path / 'run')
  equal(checkpoint.restore_params(run)['encoder'], params)
  # mu x + (1 - mu) x is x but for rounding.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6),
    checkpoint.restore_params(run, 'ema')['encoder'],
    params,
  )
  path.unlink()
  assert train.train(c, str(tmp_path / 'run'))
  assert 'loaded' not in capsys.readouterr().err


def test_the_config_asks_for_a_file(tmp_path):
  c = continue_vitb.get_config()
  assert not pathlib.Path(c.init_from).exists()
  c.data.source = 'synthetic:8'
  with pytest.raises(UserError, match='cannot read weights from vitb'):
    train.train(c, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
