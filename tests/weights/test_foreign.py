"""Reading the files of other projects, and refusing what is none."""

import io
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from m3i_jax.errors import UserError
from m3i_jax.weights import foreign, recognise

ARRAYS = {
  'blocks.0.w': np.arange(6, dtype=np.float32).reshape(2, 3),
  'count': np.array(7),
}


def save(path, arrays=ARRAYS, **told):
  path.write_bytes(safetensors.numpy.save(arrays, told or None))
  return path


def same(found, wanted=ARRAYS):
  assert set(found) == set(wanted)
  for name in wanted:
    np.testing.assert_array_equal(found[name], wanted[name])
    assert found[name].shape == wanted[name].shape


def test_each_kind_of_file(tmp_path):
  same(foreign.read(save(tmp_path / 'a.safetensors')).arrays)
  np.savez(tmp_path / 'b.npz', **ARRAYS)
  same(foreign.read(tmp_path / 'b.npz').arrays)
  np.savez_compressed(tmp_path / 'c.npz', **ARRAYS)
  same(foreign.read(tmp_path / 'c.npz').arrays)


def test_a_directory_tells_its_config(tmp_path):
  save(tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
  for path in (tmp_path, tmp_path / 'model.safetensors'):
    read = foreign.read(path)
    same(read.arrays)
    assert read.config == {'model_type': 'vit'}
  other = save(tmp_path / 'other.safetensors')
  assert foreign.read(other).config == {}
  (tmp_path / 'config.json').write_text('{"model_type"')
  with pytest.raises(UserError, match='config.json is no JSON'):
    foreign.read(tmp_path)


def test_shards(tmp_path):
  names = dict(zip(ARRAYS, ('one.safetensors', 'two.safetensors'), strict=True))
  for name, file in names.items():
    save(tmp_path / file, {name: ARRAYS[name]})
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': names}))
  same(foreign.read(tmp_path).arrays)
  same(foreign.read(index).arrays)
  index.write_text(json.dumps({'weight_map': names | {'b': names['count']}}))
  with pytest.raises(UserError, match='names b, which no shard has'):
    foreign.read(tmp_path)
  index.write_text(json.dumps({'weight_map': {'a': '../one.safetensors'}}))
  with pytest.raises(UserError, match='is no .safetensors beside it'):
    foreign.read(tmp_path)
  index.write_text('[]')
  with pytest.raises(UserError, match='an object is wanted'):
    foreign.read(tmp_path)


@pytest.mark.parametrize('dtype', [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floating_arrays_become_float32(tmp_path, dtype):
  wanted = {'w': np.linspace(-2, 2, 9).astype(dtype)}
  found = foreign.read(save(tmp_path / 'a.safetensors', wanted)).arrays['w']
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, wanted['w'].astype(np.float32))


def test_what_all_names_begin_with_is_left_away(tmp_path):
  arrays = {f'module._orig_mod.{k}': x for k, x in ARRAYS.items()}
  same(foreign.read(save(tmp_path / 'a.safetensors', arrays)).arrays)
  mixed = {'module.a': np.ones(1), 'b': np.ones(1)}
  read = foreign.read(save(tmp_path / 'b.safetensors', mixed)).arrays
  assert set(read) == set(mixed)


@pytest.mark.parametrize('cut', [-1, 100, 9, 4, 0])
def test_a_file_cut_off(tmp_path, cut):
  for path in (save(tmp_path / 'a.safetensors'), tmp_path / 'a.npz'):
    if path.suffix == '.npz':
      np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r'cannot read .*: it is cut off'):
      foreign.read(path)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
  evil = pickle.dumps(_Evil())
  for name in ('a.safetensors', 'a.npz'):
    (tmp_path / name).write_bytes(evil)
    with pytest.raises(UserError, match='cannot read'):
      foreign.read(tmp_path / name)
  np.savez(tmp_path / 'o.npz', a=np.array([_Evil()], object))
  with pytest.raises(UserError, match='pickled objects, which are never read'):
    foreign.read(tmp_path / 'o.npz')
  assert not _Evil.ran


class _Evil:
  """Says if it was unpickled."""

  ran = []

  def __reduce__(self):
    return _Evil.ran.append, (1,)


def test_a_header_that_promises_too_much(tmp_path):
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, dict(descr='<f4', fortran_order=False, shape=(1 << 40,))
  )
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as file:
    file.writestr('a.npy', header.getvalue() + bytes(8))
  with pytest.raises(UserError, match='has not the size that it says'):
    foreign.read(tmp_path / 'a.npz')
  head = json.dumps(
    {'a': dict(dtype='F32', shape=[1 << 40], data_offsets=[0, 1 << 42])}
  ).encode()
  path = tmp_path / 'a.safetensors'
  path.write_bytes(len(head).to_bytes(8, 'little') + head + bytes(8))
  with pytest.raises(UserError, match='cannot read'):
    foreign.read(path)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.npz'])
def test_large_files_only_if_allowed(tmp_path, name):
  zeros = {'a': np.zeros(1 << 18, np.float32)}  # a MiB
  path = tmp_path / name
  if path.suffix == '.npz':
    np.savez_compressed(path, **zeros)  # a KiB in the file
  else:
    save(path, zeros)
  assert foreign.read(path, limit=2**-9).arrays
  with pytest.raises(UserError, match='raise --max_gib'):
    foreign.read(path, limit=2**-11)


def test_files_of_other_kinds(tmp_path):
  with pytest.raises(UserError, match='there is no file'):
    foreign.read(tmp_path / 'nowhere.pth')
  with pytest.raises(UserError, match='has none of model.safetensors'):
    foreign.read(tmp_path)
  (tmp_path / 'a.h5').write_bytes(b'x')
  with pytest.raises(UserError, match='of unknown kind'):
    foreign.read(tmp_path / 'a.h5')
  with pytest.raises(UserError, match='holds no arrays'):
    foreign.read(save(tmp_path / 'none.safetensors', {}))


def test_pth_without_torch_says_how_to_convert(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  (tmp_path / 'a.pth').write_bytes(b'x')
  with pytest.raises(UserError, match='pip install torch.*weights_only=True'):
    foreign.read(tmp_path / 'a.pth')


def test_pth(tmp_path):
  torch = pytest.importorskip('torch')
  tensors = {k: torch.from_numpy(x) for k, x in ARRAYS.items()}
  half = lambda x: x.half() if x.ndim else x
  tensors = {f'module.{k}': half(x) for k, x in tensors.items()}
  double = {k: 2 * x for k, x in tensors.items()}
  path = tmp_path / 'a.pth'
  torch.save({'model': tensors, 'model_ema': double, 'epoch': 3}, path)
  same(foreign.read(path).arrays)
  same(
    foreign.read(path, 'ema').arrays, {k: 2 * x for k, x in ARRAYS.items()}
  )
  torch.save({'state_dict': tensors}, path)
  same(foreign.read(path).arrays)
  with pytest.raises(UserError, match='no EMA weights: its entries are state_'):
    foreign.read(path, 'ema')
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(UserError, match='cannot read'):
    foreign.read(path)
  path.write_bytes(pickle.dumps(_Evil()))
  with pytest.raises(UserError, match='cannot read'):
    foreign.read(path)
  torch.save({'model': _Evil()}, path)
  with pytest.raises(UserError, match='cannot read'):
    foreign.read(path)
  assert not _Evil.ran


NAMES = {
  'timm_vit': 'blocks.0.attn.qkv.weight',
  'timm_convnext': 'stages.0.blocks.0.conv_dw.weight',
  'mae': 'decoder_blocks.0.attn.qkv.weight',
  'hf_vit': 'vit.encoder.layer.0.attention.attention.query.weight',
  'hf_vitmae': 'decoder.decoder_layers.0.layernorm_after.bias',
  'hf_dinov2': 'encoder.layer.0.layer_scale1.lambda1',
  'hf_siglip': 'vision_model.head.probe',
  'hf_bert': 'bert.encoder.layer.0.attention.self.query.weight',
  'hf_clip_text': 'text_model.embeddings.token_embedding.weight',
  'internimage': 'levels.0.blocks.0.dcn.offset.weight',
  'detectron2': 'backbone.net.blocks.0.attn.qkv.weight',
  'mmseg': 'backbone.layers.0.ln1.weight',
}
CONFIGS = {
  'timm_vit': {'architecture': 'vit_small_patch16_224'},
  'timm_convnext': {'architecture': 'convnext_tiny'},
  'hf_vitmae': {'model_type': 'vit_mae'},
  'hf_clip_text': {'model_type': 'clip'},
}


@pytest.mark.parametrize('family', sorted(NAMES))
def test_a_family_is_known_by_its_names(family):
  extra = ['blocks.0.norm1.weight'] if family == 'mae' else []
  assert recognise.guess({}, [*extra, NAMES[family]]) == family
  if family in CONFIGS:
    assert recognise.guess(CONFIGS[family], ['x']) == family


def test_an_unknown_family():
  with pytest.raises(UserError, match=r'begin with a.b\): name one by --from'):
    recognise.guess({}, ['a.b'])
  with pytest.raises(UserError, match="model_type 'swin'"):
    recognise.guess({'model_type': 'swin'}, ['blocks.0.attn.qkv.weight'])


def test_what_config_json_tells():
  vit = dict(
    model_type='vit', num_attention_heads=3, layer_norm_eps=1e-12,
    hidden_act='gelu_new',
  )  # fmt: skip
  told = dict(heads=3, eps=1e-12, activation='gelu_tanh')
  assert recognise.given(vit) == told
  clip = dict(
    model_type='clip', text_config=dict(num_attention_heads=8),
    vision_config=dict(num_attention_heads=12),
  )  # fmt: skip
  assert recognise.given(clip) == dict(heads=8)
  assert recognise.given(clip | dict(model_type='siglip')) == dict(heads=12)
  timm = dict(architecture='vit_x', model_args=dict(num_heads=5))
  assert recognise.given(timm) == dict(heads=5)
  with pytest.raises(UserError, match="hidden_act 'relu'"):
    recognise.given(vit | dict(hidden_act='relu'))


@pytest.mark.parametrize('text', ['[' * 100_000, '{', '[1]', '\xff'])
def test_a_config_that_is_no_object(tmp_path, text):
  (tmp_path / 'model.safetensors').write_bytes(
    safetensors.numpy.save({'a': np.zeros(1, np.float32)})
  )
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError, match='config.json'):
    foreign.read(tmp_path)


def test_tensors_that_are_more_than_their_file(tmp_path):
  torch = pytest.importorskip('torch')
  for name, x, said in (
    ('seen', torch.zeros(1).expand(2**30), 'GiB, more than 1'),
    ('sparse', torch.zeros(3).to_sparse(), 'x is no plain tensor'),
  ):
    path = tmp_path / f'{name}.pth'
    torch.save({'x': x}, path)
    with pytest.raises(UserError, match=said):
      foreign.read(path, limit=1.0)
  cycle = {}
  cycle['model'] = cycle
  torch.save(cycle, tmp_path / 'cycle.pth')
  with pytest.raises(UserError, match='holds no arrays'):
    foreign.read(tmp_path / 'cycle.pth')
