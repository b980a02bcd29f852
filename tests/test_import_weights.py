"""import_weights: what is read, what is told, and what is refused."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from m3i_jax import import_weights, weights
from m3i_jax.errors import UserError
from m3i_jax.weights import adapt, recognise, resize, verify
from m3i_jax.weights.foreign import Foreign
from tests.weights.official import golden

ROOT = pathlib.Path(__file__).parents[1]


def timm():
  """A ViT of timm: 32 wide, 48 wide inside, 9 cells and a class token."""
  return golden('timm_vit')[0]


def command(*args) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.import_weights', *map(str, args)],
    cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''},
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip


def refused(*args) -> str:
  """The one line of a mistake."""
  done = command(*args)
  assert done.returncode == 2 and not done.stdout, done
  (line,) = done.stderr.splitlines()
  assert line.startswith('m3i_jax: ')
  return line


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('timm') / 'vit.safetensors'
  path.write_bytes(safetensors.numpy.save(timm()))
  return path


def test_the_command(file, tmp_path):
  out = tmp_path / 'out.safetensors'
  done = command('--heads=4', '--verify', f'--out={out}', file)
  assert done.returncode == 0, done
  told = done.stdout.splitlines()
  assert told[0] == 'family    timm_vit: 36 arrays, 0.022 M parameters'
  assert 'model     vit: width 32, depth 2, heads 4, hidden 48' in told[1]
  assert told[2] == f'wrote     {out}'
  assert told[3].startswith('verify    ')
  assert weights.describe(out)['heads'] == 4
  exported = weights.export_state('timm_vit', weights.read(out))
  for name, x in timm().items():
    np.testing.assert_array_equal(exported[name], x)
  assert os.listdir(tmp_path) == [out.name]


def test_mistakes_are_told_in_a_line(file, tmp_path):
  out = f'--out={tmp_path}/out.safetensors'
  assert '--out is missing' in refused(file)
  assert 'a path is missing; see' in refused(out)
  assert 'there is no file no.safetensors' in refused(out, 'no.safetensors')
  line = refused(out, '--from=timm', file)
  assert '--from=timm: choose from timm_vit' in line
  assert 'name a .safetensors file in a' in refused('--out=/no/x.npz', file)
  assert 'give KEY=VALUE' in refused(out, '--field=eps', file)
  assert 'unknown' in refused(out, '--hedas=3', file).lower()
  line = refused(out, '--heads=4', '--from=mae', tmp_path)
  assert 'has none of model.safetensors' in line
  assert not list(tmp_path.iterdir())


def test_help_has_an_example():
  done = command('--help')
  assert '--out=vitb.safetensors mae_vit_base.pth' in done.stdout
  assert '--image_size' in done.stdout


def convert(arrays, config=None, **given):
  return import_weights.convert(Foreign(arrays, config or {}), **given)


def test_config_json_tells_what_shapes_do_not():
  arrays = golden('hf_vit')[0]
  config = dict(
    model_type='vit', num_attention_heads=2, layer_norm_eps=1e-3,
    hidden_act='quick_gelu',
  )  # fmt: skip
  told = convert(arrays, config).model
  found = {key: told[key] for key in ('heads', 'eps', 'activation')}
  assert found == dict(heads=2, eps=1e-3, activation='quick_gelu')
  # A flag goes first.
  assert convert(arrays, config, given={'eps': 1e-5}).model['eps'] == 1e-5


def test_what_is_left_out_is_told():
  arrays = timm() | {
    'mask_token': np.zeros((1, 1, 32), np.float32),
    'decoder_embed.weight': np.zeros((8, 32), np.float32),
  }
  found = convert(arrays, family='mae', given=dict(heads=4))
  assert found.notes == (
    ('left out', 'mask_token'), ('left out', 'decoder_embed.weight')
  )  # fmt: skip
  assert found.count == len(arrays) - 2
  told = import_weights.described(found)
  assert 'left out  decoder_embed.weight' in told.splitlines()


def test_unexpected_keys_are_left_out_if_asked():
  arrays = timm() | {'extra.weight': np.zeros(3, np.float32)}
  with pytest.raises(UserError, match='extra.weight is unexpected'):
    convert(arrays, family='timm_vit', given=dict(heads=4))
  found = convert(arrays, family='timm_vit', given=dict(heads=4), strict=False)
  assert found.notes == (('unexpected', 'extra.weight'),)
  del arrays['blocks.1.norm1.weight']
  with pytest.raises(UserError, match='blocks.1.norm1.weight is missing'):
    convert(arrays, family='timm_vit', given=dict(heads=4), strict=False)


def _without(name):
  return {k: x for k, x in timm().items() if k != name}


@pytest.mark.parametrize(
  ('arrays', 'family', 'said'),
  [
    (_without('norm.bias'), 'timm_vit', 'norm.bias is missing'),
    (
      timm() | {'blocks.1.mlp.fc1.bias': np.zeros(5, np.float32)},
      'timm_vit', 'blocks.1.mlp.fc1.bias is of shape',
    ),
    (
      timm() | {'blocks.0.norm1.bias': np.full(32, np.nan, np.float32)},
      'timm_vit', 'blocks.0.norm1.bias has values that are not finite',
    ),
    (timm(), 'hf_vit', 'it looks like family timm_vit'),
    (timm(), '', 'how many heads a width of 32 has'),
    ({'a': np.zeros(3)}, '', 'name one by --from'),
  ],
)  # fmt: skip
def test_what_does_not_fit_is_named(arrays, family, said):
  with pytest.raises(UserError, match=said):
    convert(arrays, family=family)


def test_positions_resize():
  found = convert(timm(), given=dict(heads=4), image_size=64)
  assert found.notes == (('reshaped', 'pos_embed (1, 10, 32) -> (1, 65, 32)'),)
  np.testing.assert_array_equal(
    found.params['pos_embed'], resize.positions(timm()['pos_embed'], 1, 8)
  )
  assert not convert(timm(), given=dict(heads=4), image_size=24).notes
  with pytest.raises(UserError, match='no multiple of the patch side 8'):
    convert(timm(), given=dict(heads=4), image_size=30)
  convnext = golden('timm_convnext')[0]
  with pytest.raises(UserError, match='no learned positions'):
    convert(convnext, image_size=64)


def test_heads_of_the_known_sizes():
  """64 wide, but for ViT-H and larger."""
  for width, depth, heads in ((1280, 32, 16), (768, 12, 12), (48, 2, 0)):
    layers = {'norm1': {'scale': np.zeros((depth, width))}}
    params = dict(patch_embed={}, blocks={'layers': layers})
    assert recognise.heads(params) == heads


def test_the_file_describes_a_module(tmp_path):
  for family in ('timm_vit', 'timm_convnext', 'hf_siglip', 'hf_bert'):
    arrays, _ = golden(family)
    found = convert(arrays, family=family, given=given(family))
    out = tmp_path / f'{family}.safetensors'
    weights.save(out, found.params, found.model)
    net = adapt.module(weights.describe(out), weights.read(out))
    assert json.loads(json.dumps(found.model)) == weights.describe(out)
    assert type(net).__name__ in ('ViT', 'ConvNeXt', 'TextTower')


def given(family):
  """What no shape of a golden network tells."""
  return {} if family == 'timm_convnext' else {'heads': 4}


@pytest.mark.parametrize(
  'family',
  ['timm_vit', 'timm_convnext', 'hf_vit', 'hf_dinov2', 'hf_siglip', 'hf_bert',
   'hf_clip_text'],
)  # fmt: skip
def test_verify(family):
  pytest.importorskip('torch')
  pytest.importorskip('timm')
  pytest.importorskip('transformers')
  arrays, _ = golden(family)
  found = convert(arrays, family=family, given=given(family))
  net = adapt.module(found.model, found.params)
  verdict = verify.imported(found.family, found.model, net, found.params)
  assert verdict.differences and not verdict.note, verdict
  assert max(verdict.differences.values()) < 1e-5


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    (dict(heads=-2), 'heads=-2: a whole number'),
    (dict(heads='x'), "heads='x': a whole number"),
    (dict(heads=4, eps=float('nan')), 'eps=nan: a positive number'),
    (dict(heads=4, activation='swish'), 'one of gelu, gelu_tanh'),
    (dict(heads=4, width=64), 'width=64 is given, and the shapes tell 32'),
    (dict(name='convnext', heads=4), "the shapes tell 'vit'"),
  ],
)
def test_fields_that_no_such_network_has(given, said):
  with pytest.raises(UserError, match=said):
    convert(timm(), given=given)


@pytest.mark.parametrize(
  'config',
  [
    dict(architecture=3),
    dict(architecture='vit_x', model_args=[1]),
    dict(architecture='vit_x', model_args=dict(num_heads='x')),
    dict(architecture='vit_x', model_args=dict(act_layer=dict(a=1))),
    dict(model_type=['vit']),
    dict(model_type='siglip', vision_config=3),
    dict(model_type='vit', hidden_act=dict(a=1)),
    dict(num_attention_heads=float('nan')),
  ],
)
def test_a_config_that_makes_no_sense_is_a_mistake(config):
  with pytest.raises(UserError):
    convert(timm(), config)


def test_a_file_is_replaced_if_asked(file, tmp_path):
  out = tmp_path / 'out.safetensors'
  out.write_bytes(b'mine')
  line = refused('--heads=4', f'--out={out}', file)
  assert 'is there: name another, or give --overwrite' in line
  assert out.read_bytes() == b'mine'
  done = command('--heads=4', f'--out={out}', '--overwrite', file)
  assert done.returncode == 0, done
  assert weights.describe(out)['heads'] == 4


def test_the_input_is_not_replaced(file):
  before = file.read_bytes()
  line = refused(f'--out={file}', '--heads=4', file)
  assert 'would replace what is read' in line
  assert file.read_bytes() == before
