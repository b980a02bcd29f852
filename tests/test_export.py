"""export: a run's encoder in the formats of other projects, and back."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from m3i_jax import checkpoint, import_weights, positions, weights
from m3i_jax import config as schema
from m3i_jax import step as steps
from m3i_jax.errors import UserError
from m3i_jax.optim import Optimizer
from m3i_jax.weights import adapt, directory, foreign, verify
from tests import small
from tests.weights.official import golden

ROOT = pathlib.Path(__file__).parents[1]
VITS = (
  'timm_vit', 'mae', 'hf_vit', 'hf_vitmae', 'hf_dinov2', 'detectron2', 'mmseg'
)  # fmt: skip


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """{learned positions: (workdir, its state)}; parameters perturbed."""
  made = {}
  for learned in (False, True):
    c = small.small_config()
    if learned:
      c.model.update(positions='learned', final_norm=True)
    objective = small.small_objective(c)
    init = lambda objective=objective: steps.init_state(
      objective, Optimizer().build(10), 0, small.draw_batch()
    )
    state = jax.jit(init)()
    state = jax.device_get(
      state.replace(
        params=small.perturbed(state.params),
        ema=small.perturbed(state.ema, seed=1),
      )
    )
    workdir = tmp_path_factory.mktemp('run')
    checkpoints = checkpoint.Checkpoints(workdir, every=1)
    checkpoints.save(1, state, schema.as_json(c))
    checkpoints.close()
    made[learned] = str(workdir), state
  return made


def equal(found, wanted):
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def imported(path, family):
  given = dict(heads=2)
  return import_weights.convert(foreign.read(path), family, given)


@pytest.mark.parametrize('family', VITS)
@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('which', ['online', 'ema'])
def test_there_and_back_is_bitwise(runs, tmp_path, family, learned, which):
  workdir, state = runs[learned]
  encoder = (state.params if which == 'online' else state.ema)['encoder']
  out = tmp_path / 'out'
  written = directory.write(directory.source(workdir, which), family, out)
  found = imported(out, family).params
  if not learned:
    # Fixed positions are a table now, the class token's row zero.
    table = found.pop('pos_embed')
    sincos = positions.grid_sincos(small.GRID, 32)
    np.testing.assert_array_equal(table[0, -small.CELLS :], sincos)
    assert not table[0, : -small.CELLS].any()
    # Where a norm, or a scale, is always there it does nothing.
    for name, x in found.pop('norm', {}).items():
      assert (x == (name == 'scale')).all()
  for name in ('ls1', 'ls2'):
    scale = found['blocks']['layers'].pop(name, {'gamma': np.ones(1)})
    assert (scale['gamma'] == 1).all()
  wanted = dict(encoder)
  if family == 'detectron2':
    dropped = {'cls_token', 'norm'} & set(encoder)
    assert dropped == {x.split('/')[0] for x in written.left_out}
    for name in dropped:
      del wanted[name]
    row = found.pop('cls_position')
    if learned:
      whole = np.concatenate([row, found['pos_embed']], axis=1)
      found['pos_embed'] = whole
  equal(found, wanted)
  count = sum(x.size for x in foreign.read(out).arrays.values()) / 1e6
  assert written.count == pytest.approx(count)


def test_the_directory_of_timm(runs, tmp_path):
  workdir, _ = runs[False]
  out = tmp_path / 'out'
  directory.write(directory.source(workdir), 'timm_vit', out)
  names = {'model.safetensors', 'config.json', 'README.md'}
  assert {x.name for x in out.iterdir()} == names
  with safetensors.safe_open(out / 'model.safetensors', 'numpy') as file:
    assert file.metadata() == {'format': 'pt'}
  told = json.loads((out / 'config.json').read_text())
  assert told['model_args'] == dict(
    img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2,
    mlp_ratio=2.0, class_token=True, global_pool='avg', fc_norm=False,
    final_norm=False,
  )  # fmt: skip
  assert told['pretrained_cfg']['input_size'] == [3, 32, 32]
  # Without these timm refuses another num_classes or in_chans.
  assert told['pretrained_cfg']['classifier'] == 'head'
  assert told['pretrained_cfg']['first_conv'] == 'patch_embed.proj'
  card = (out / 'README.md').read_text()
  assert "timm.create_model('local-dir:DIR', pretrained=True)" in card
  assert 'width=32' in card and '0.024 M' in card


def test_the_directory_of_transformers(runs, tmp_path):
  workdir, _ = runs[False]
  out = tmp_path / 'out'
  written = directory.write(directory.source(workdir), 'hf_vit', out)
  told = json.loads((out / 'config.json').read_text())
  assert told['layer_norm_eps'] == 1e-6  # not the 1e-12 that is usual there
  assert told['architectures'] == ['ViTModel']
  assert (told['image_size'], told['patch_size']) == (32, 8)
  images = json.loads((out / 'preprocessor_config.json').read_text())
  assert images['image_mean'] == [0.485, 0.456, 0.406]
  assert images['size'] == dict(height=32, width=32)
  assert 'hidden_states[-1]' in written.notes[0]
  card = (out / 'README.md').read_text()
  assert "ViTModel.from_pretrained('DIR', add_pooling_layer=False)" in card


def test_a_text_tower(runs, tmp_path):
  workdir, state = runs[False]
  source = directory.source(workdir, text_tower=True)
  directory.write(source, 'hf_bert', tmp_path / 'out')
  tower = state.params['targets_text']['representation']['tower']
  equal(imported(tmp_path / 'out', 'hf_bert').params, tower)
  told = json.loads((tmp_path / 'out/config.json').read_text())
  assert told['num_attention_heads'] == 2
  assert told['vocab_size'] == small.VOCABULARY
  with pytest.raises(UserError, match="text tower is BERT's kind"):
    directory.write(source, 'hf_clip_text', tmp_path / 'clip')


def test_bfloat16(runs, tmp_path):
  workdir, state = runs[True]
  out = tmp_path / 'out'
  source = directory.source(workdir)
  directory.write(source, 'hf_vit', out, dtype='bfloat16')
  assert json.loads((out / 'config.json').read_text())['torch_dtype'] == (
    'bfloat16'
  )
  found = imported(out, 'hf_vit').params
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(x, y.astype('bfloat16')),
    found, state.params['encoder'],
  )  # fmt: skip


def test_other_sizes(runs, tmp_path):
  source = directory.source(runs[True][0])
  written = directory.write(source, 'timm_vit', tmp_path / 'timm', 64)
  assert written.notes == ('positions: 4 x 4 -> 8 x 8 cells',)
  table = imported(tmp_path / 'timm', 'timm_vit').params['pos_embed']
  assert table.shape == (1, 65, 32)
  # Detectron2 resizes by itself.
  written = directory.write(source, 'detectron2', tmp_path / 'd2', 64)
  assert written.size == 32 and 'stay those of 32 pixels' in written.notes[0]
  told = json.loads((tmp_path / 'd2/config.json').read_text())
  assert told['pretrain_img_size'] == 32
  fixed = directory.source(runs[False][0])
  directory.write(fixed, 'timm_vit', tmp_path / 'fixed', 64)
  table = imported(tmp_path / 'fixed', 'timm_vit').params['pos_embed']
  np.testing.assert_array_equal(table[0, 1:], positions.grid_sincos(8, 32))
  with pytest.raises(UserError, match='--image_size=60 is no multiple of 8'):
    directory.write(fixed, 'timm_vit', tmp_path / 'odd', 60)


CONVNETS = {
  'timm_convnext': dict(
    name='convnext', depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), fused=16
  ),
  'internimage': dict(
    name='internimage', channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8),
    fused=32, num_classes=0,
  ),
}  # fmt: skip


@pytest.mark.parametrize('family', sorted(CONVNETS))
def test_convnets_of_a_run(tmp_path, family):
  """They have no classifier, and layers that fuse their last two maps."""
  model = CONVNETS[family]
  net = adapt.module(model, {})
  image = np.zeros((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), image)['params']
  draw = np.random.default_rng(0).standard_normal
  params = jax.tree.map(lambda x: draw(x.shape, np.float32), shapes)
  source = directory.Source(model, params, net, 64)
  written = directory.write(source, family, tmp_path / 'out')
  state = weights.import_state(family, foreign.read(tmp_path / 'out').arrays)
  if family == 'timm_convnext':
    assert 'no place there' in written.notes[0]
    del params['fuse']
    assert (state.pop('norm')['scale'] == 1).all()
  else:
    assert 'use_clip_projector' in written.notes[0]
  equal(state, params)


@pytest.mark.parametrize(
  ('changed', 'family', 'said'),
  [
    (dict(class_token=False), 'hf_vit', 'have a class token, and this one has'),
    (dict(), 'hf_siglip', 'have no class token, and this one has'),
    (dict(eps=1e-12), 'timm_vit', 'an epsilon of 1e-06, and these of 1e-12'),
    (dict(layer_scale=1.0), 'hf_vit', 'have no LayerScale'),
    (dict(activation='quick_gelu'), 'mae', 'is the exact GELU'),
    (dict(), 'timm_convnext', 'cannot hold a vit: choose from timm_vit, mae'),
    (dict(), 'hf_bert', 'cannot hold a vit'),
  ],
)
def test_what_a_format_cannot_say_is_refused(
  runs, tmp_path, changed, family, said
):
  source = directory.source(runs[True][0])
  net = source.net.clone(**changed)
  other = directory.Source(source.model, source.params, net, source.size)
  with pytest.raises(UserError, match=said) as error:
    directory.write(other, family, tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not list(tmp_path.iterdir())


def test_a_directory_that_is_there(runs, tmp_path):
  source, out = directory.source(runs[True][0]), tmp_path / 'out'
  directory.write(source, 'timm_vit', out)
  before = {x.name: x.read_bytes() for x in out.iterdir()}
  with pytest.raises(UserError, match='is there: name another, or give --ov'):
    directory.write(source, 'hf_vit', out)
  assert {x.name: x.read_bytes() for x in out.iterdir()} == before
  directory.write(source, 'hf_vit', out, overwrite=True)
  assert (out / 'preprocessor_config.json').exists()
  (out / 'thesis.tex').write_text('all of it')
  with pytest.raises(UserError, match=r'has written \(thesis.tex\)'):
    directory.write(source, 'timm_vit', out, overwrite=True)
  assert (out / 'thesis.tex').exists()
  with pytest.raises(UserError, match='cannot write'):
    directory.write(source, 'timm_vit', tmp_path / 'no/where')
  assert [x.name for x in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError, SystemExit])
def test_nothing_is_left_half_written(runs, tmp_path, monkeypatch, error):
  source, out = directory.source(runs[True][0]), tmp_path / 'out'

  def fail(*_):
    raise error

  with monkeypatch.context() as patched:
    patched.setattr(directory, 'readme', fail)
    with pytest.raises((error, UserError)):
      directory.write(source, 'timm_vit', out)
    assert not list(tmp_path.iterdir())
  directory.write(source, 'timm_vit', out)
  with monkeypatch.context() as patched:
    patched.setattr(directory, 'readme', fail)
    with pytest.raises((error, UserError)):
      directory.write(source, 'hf_vit', out, overwrite=True)
  assert [x.name for x in tmp_path.iterdir()] == ['out']
  assert imported(out, 'timm_vit').params


def test_the_old_directory_stays_if_the_new_one_fails(
  runs, tmp_path, monkeypatch
):
  source, out = directory.source(runs[True][0]), tmp_path / 'out'
  directory.write(source, 'timm_vit', out)
  move = os.replace

  def fail(old, new):
    if new == out and not str(old).endswith('.old'):
      raise OSError(28, 'No space left on device')
    move(old, new)

  monkeypatch.setattr(directory.os, 'replace', fail)
  with pytest.raises(UserError, match='No space left'):
    directory.write(source, 'hf_vit', out, overwrite=True)
  assert [x.name for x in tmp_path.iterdir()] == ['out']
  assert imported(out, 'timm_vit').params


def test_nan_weights_are_refused(runs, tmp_path):
  source = directory.source(runs[True][0])
  source.params['patch_embed']['proj']['bias'][0] = np.nan
  with pytest.raises(UserError, match=r'patch_embed.proj.bias has values'):
    directory.write(source, 'timm_vit', tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def command(*args) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.export', *map(str, args)],
    cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip


def test_the_command(runs, tmp_path):
  out = tmp_path / 'out'
  done = command('--to=detectron2', f'--out={out}', '--verify', runs[False][0])
  assert done.returncode == 0, done
  told = done.stdout.splitlines()
  assert told[0] == 'family    detectron2: 0.024 M parameters, float32'
  assert told[1] == 'left out  cls_token'
  assert f'wrote     {out}' in told
  assert told[-1].startswith('verify    not compared')
  # A file of import_weights goes out, too.
  arrays, _ = golden('timm_convnext')
  found = import_weights.convert(foreign.Foreign(arrays, {}))
  file = tmp_path / 'convnext.safetensors'
  weights.save(file, found.params, found.model)
  done = command('--to=timm_convnext', f'--out={tmp_path}/next', file)
  assert done.returncode == 0, done
  back = foreign.read(tmp_path / 'next')
  assert back.config['model_args']['dims'] == [8, 16, 24, 32]
  equal(back.arrays, arrays)


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    (['--out=x'], '--to is missing'),
    (['--to=timm', '--out=x', 'RUN'], '--to=timm: choose from timm_vit'),
    (['--to=mae', '--out=x', 'nowhere'], 'cannot read weights from nowhere'),
    (['--to=mae', '--out=docs', 'RUN'], '--out=docs is there'),
    (['--to=mae', '--out=x', '--which=best', 'RUN'], 'should be one of'),
  ],
)
def test_mistakes_are_told_in_a_line(runs, args, said):
  done = command(*(runs[True][0] if x == 'RUN' else x for x in args))
  assert done.returncode == 2 and not done.stdout, done
  (line,) = done.stderr.splitlines()
  assert line.startswith('m3i_jax: ') and said in line


SLOW = """
import sys, time
from m3i_jax.weights import directory
directory.readme = lambda *_: (print('now', flush=True), time.sleep(60))
from m3i_jax import command, export
sys.argv[1:] = ['--to=timm_vit', '--out=' + sys.argv[2], sys.argv[1]]
command.run(export.define, export.work, ('to', 'out'))
"""


def test_sigterm_leaves_nothing(runs, tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', SLOW, runs[True][0], str(tmp_path / 'out')],
    cwd=ROOT, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'now\n'
  assert list(tmp_path.iterdir())
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == 143
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize(
  'family', ['timm_vit', 'mae', 'hf_vit', 'hf_vitmae', 'hf_dinov2', 'hf_bert']
)
def test_the_same_numbers_elsewhere(runs, tmp_path, family, learned):
  for name in ('torch', 'timm', 'transformers'):
    pytest.importorskip(name)
  source = directory.source(runs[learned][0], 'online', family == 'hf_bert')
  out = tmp_path / 'out'
  written = directory.write(source, family, out)
  verdict = verify.written(out, family, written.net, written.size)
  assert not verdict.note, verdict
  assert max(verdict.differences.values()) < 1e-5


def test_pth_where_torch_is(runs, tmp_path):
  torch = pytest.importorskip('torch')
  source = directory.source(runs[True][0])
  directory.write(source, 'detectron2', tmp_path / 'out', dtype='bfloat16')
  saved = torch.load(tmp_path / 'out/model.pth', weights_only=True)
  assert list(saved) == ['model']
  equal(
    foreign.read(tmp_path / 'out/model.pth').arrays,
    foreign.read(tmp_path / 'out').arrays,
  )
