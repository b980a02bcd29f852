"""Weights of an encoder in a file, and a frozen teacher made of them."""

import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs.table1 import dense_distillation, mim_feature
from m3i_jax import build, checkpoint, config, step, train, weights
from m3i_jax.errors import UserError


def teacher_config() -> ConfigDict:
  """A teacher of other sizes than the student's."""
  c = dense_distillation.get_config('debug')
  c.model.update(width=24, depth=1, heads=3, hidden=40, class_token=False)
  return c


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """(path of a weights file, the parameters in it)."""
  c = teacher_config()
  encoder = build.encoder(c)
  image = np.zeros((1, c.image_size, c.image_size, 3), np.float32)
  params = jax.jit(encoder.init)(jax.random.key(7), image)['params']
  path = tmp_path_factory.mktemp('weights') / 'teacher.safetensors'
  weights.save(path, params, c.model.to_dict())
  return path, jax.device_get(params)


def test_a_file_gives_back_what_it_was_given(saved):
  path, params = saved
  assert weights.describe(path)['width'] == 24
  jax.tree.map(
    np.testing.assert_array_equal, weights.load(path, params), params
  )
  assert [x.name for x in path.parent.iterdir()] == [path.name]


def test_what_is_no_weights_file_is_refused(saved, tmp_path):
  path, params = saved
  with pytest.raises(UserError, match='cannot read weights from'):
    weights.describe(tmp_path / 'nowhere.safetensors')
  evil = tmp_path / 'evil.safetensors'
  with zipfile.ZipFile(evil, 'w') as file:
    file.writestr('archive/data.pkl', pickle.dumps(print))
  with pytest.raises(UserError, match='cannot read weights from'):
    weights.describe(evil)
  odd = tmp_path / 'odd.safetensors'
  odd.write_bytes(safetensors.numpy.save({}, {'model': 'vit'}))
  with pytest.raises(UserError, match='cannot read weights from'):
    weights.describe(odd)
  cut = tmp_path / 'cut.safetensors'
  cut.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match='cannot read weights from'):
    weights.load(cut, params)
  with pytest.raises(UserError, match=r'bias2 is absent.*\(2 differ\)|bias is'):
    weights.load(path, _renamed(params))


def test_what_only_another_project_reads_is_no_part_of_a_network(
  saved, tmp_path
):
  path, params = saved
  more = tmp_path / 'more.safetensors'
  kept = {'mask_token': np.ones((1, 1, 24)), 'pooler': {'bias': np.ones(24)}}
  weights.save(more, params | kept, weights.describe(path))
  jax.tree.map(
    np.testing.assert_array_equal, weights.load(more, params), params
  )
  assert 'mask_token' in weights.read(more)


def _renamed(params):
  """`params` with one leaf under another name."""
  proj = dict(params['patch_embed']['proj'])
  proj['bias2'] = proj.pop('bias')
  return params | {'patch_embed': {'proj': proj}}


@pytest.mark.parametrize(
  'method, variant', [(dense_distillation, 'frozen'), (mim_feature, 'milan')]
)
def test_a_frozen_teacher_stays_what_the_file_holds(
  saved, tmp_path, method, variant
):
  path, params = saved
  c = method.get_config(variant)
  config.debug(c)
  c.evals = {}
  c.teacher = str(path)
  assert train.train(c, str(tmp_path))
  frozen = checkpoint.restore_params(str(tmp_path), 'frozen')['teacher']
  jax.tree.map(np.testing.assert_array_equal, frozen, params)
  rows = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  losses = [row['loss/dense'] for row in rows]
  assert losses[-1] < losses[0]
  # A run is a teacher, too.
  assert weights.describe(tmp_path)['width'] == 32


def test_a_frozen_target_needs_a_teacher_of_the_same_cells(saved):
  c = dense_distillation.get_config('frozen')
  config.debug(c)
  with pytest.raises(UserError, match='config.teacher'):
    build.build(c, 5, 0)
  model = weights.describe(saved[0]) | dict(patch=16)
  with pytest.raises(UserError, match='patches of 16 pixels'):
    build.build(c, 5, 0, model)
  objective = build.build(c, 5, 0, weights.describe(saved[0]))
  assert objective.targets['dense'].representation.width == 24
  batch = step.zero_batch(2, 32, ('a',))
  state = jax.eval_shape(
    lambda: step.init_state(objective, build.optimizer(c).build(5), 0, batch)
  )
  assert not state.ema and set(state.frozen) == {'teacher'}
