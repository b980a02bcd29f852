"""A network as a directory that other projects load, whole or not there.

model.safetensors, config.json and a model card; preprocessor_config.json for
transformers; model.pth where torch is installed and the project reads that.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from m3i_jax import checkpoint, files
from m3i_jax.errors import UserError
from m3i_jax.models import text
from m3i_jax.weights import adapt, cards, resize, states
from m3i_jax.weights import files as stored

PICKLED = ('mae', 'detectron2', 'mmseg', 'internimage')
WRITTEN = (
  'model.safetensors', 'model.pth', 'config.json', 'preprocessor_config.json',
  'README.md',
)  # fmt: skip
POOLED = ('ViTModel', 'BertModel')  # with a pooler, unless told not to
SIZE = 224  # of pictures, where nothing tells


@dataclasses.dataclass(frozen=True)
class Source:
  """A network to be exported.

  Attributes:
    model: fields of config.model.
    params: nested dicts of NumPy arrays.
    net: its module.
    size: of its pictures, in pixels; 0 if it is not told.
  """

  model: dict[str, Any]
  params: dict[str, Any]
  net: Any
  size: int


@dataclasses.dataclass(frozen=True)
class Written:
  """What was written.

  Attributes:
    size: of the pictures, in pixels.
    count: millions of parameters.
    notes: what the format does otherwise.
    left_out: paths of parameters that it has no place for.
    net: the module of what was written.
    parts: names of the subtrees of its parameters.
    config: config.json.
  """

  size: int
  count: float
  notes: tuple[str, ...]
  left_out: tuple[str, ...]
  net: Any
  parts: frozenset[str]
  config: dict[str, Any]


def source(
  path: str, which: str = 'online', text_tower: bool = False
) -> Source:
  """Reads a run's newest checkpoint, or a weights file.

  Raises:
    UserError: there is none, or it has no such part.
  """
  if not Path(path).is_dir():
    if which != 'online':
      raise UserError(f'--which={which}: {path} is a file, of one encoder')
    model, params = stored.describe(path), stored.read(path)
    return Source(model, params, adapt.module(model, params), 0)
  config = checkpoint.restore_config(path)
  if text_tower:
    return _text_tower(config, checkpoint.restore_params(path))
  item = {'online': 'params', 'ema': 'ema'}[which]
  params = checkpoint.restore_params(path, item)
  if 'encoder' not in params:
    raise UserError(
      f'{path} keeps no moving average of the encoder: --which=online'
    )
  model, params = dict(config['model']), params['encoder']
  net = adapt.module(model, params)
  return Source(model, params, net, config['image_size'])


def _text_tower(config: Mapping, params: Mapping) -> Source:
  """The first text tower of a run."""
  for name, row in config['targets'].items():
    found = params.get(f'targets_{name}', {}).get('representation', {})
    if 'tower' not in found:
      continue
    spec = dict(row['representation'])
    heads = text.VARIANTS.get(spec.get('variant'), (0, 0, 12, 0))[2]
    known = {k: spec[k] for k in ('pool', 'heads') if k in spec}
    model = {'name': 'text', 'heads': heads} | known
    tower = found['tower']
    return Source(model, tower, adapt.module(model, tower), 0)
  raise UserError('the run has no text tower: no target of it needs one')


def write(
  net: Source, family: str, out: Path, size: int = 0, dtype: str = 'float32',
  overwrite: bool = False,
) -> Written:  # fmt: skip
  """Writes the directory of a network, whole or not at all.

  Args:
    size: of the pictures, in pixels, 0 as trained.
    dtype: of floating arrays.
  Raises:
    UserError: the family cannot hold the network; `out` is there already.
  """
  size = size or _size(net)
  if size < 0 or size % getattr(net.net, 'stride', 1):
    raise UserError(
      f'--image_size={size} is no multiple of {net.net.stride}, as it must be '
      'for this network'
    )
  module, params, notes = adapt.adapt(
    family, net.model['name'], net.net, net.params, size
  )
  if family in adapt.RESIZING and 'pos_embed' in params:
    prefix = int(module.class_token)
    size = module.patch * resize.grid(params['pos_embed'], prefix)
  arrays = states.export_state(family, params)
  left = states.dropped(family, params)
  told = cards.card(family, module, size, params)
  if family.startswith('hf_'):
    told['torch_dtype'] = dtype
  count = adapt.millions(list(arrays.values()))
  written = Written(
    size, count, tuple(notes), left, module, frozenset(params), told
  )
  with made(out, overwrite) as place:
    write_safetensors(place / 'model.safetensors', arrays, dtype)
    if family in PICKLED and not write_pickled(
      place / 'model.pth', arrays, dtype
    ):
      note = (
        'torch is not installed, so there is no model.pth: where it is, '
        "torch.save({'model': safetensors.torch.load_file('model.safetensors')"
        "}, 'model.pth')"
      )
      written = dataclasses.replace(written, notes=(*notes, note))
    _json(place / 'config.json', told)
    if family.startswith('hf_') and net.model['name'] == 'vit':
      _json(place / 'preprocessor_config.json', cards.preprocessor(size))
    card = readme(net, family, written, dtype)
    (place / 'README.md').write_text(card)
  return written


def _size(net: Source) -> int:
  """Pixels of the pictures that a network was trained on."""
  if net.size or 'pos_embed' not in net.params:
    return net.size or SIZE
  prefix = int(net.net.class_token)
  return net.net.patch * resize.grid(net.params['pos_embed'], prefix)


def _json(path: Path, told: Mapping) -> None:
  path.write_text(json.dumps(told, indent=2) + '\n')


def write_safetensors(path: Path, arrays: Mapping, dtype: str = '') -> None:
  """Writes arrays as PyTorch's safetensors, atomically.

  dtype: that floating arrays are rounded to, '' as they are.
  """
  flat = {name: rounded(x, dtype) for name, x in arrays.items()}
  files.write(path, safetensors.numpy.save(flat, {'format': 'pt'}))


def write_pickled(path: Path, arrays: Mapping, dtype: str = '') -> bool:
  """Writes {'model': arrays} as torch saves it; False if there is no torch."""
  try:
    import torch
  except ImportError:
    return False

  def tensor(x):
    x = np.ascontiguousarray(x)
    tensor = torch.from_numpy(x.copy()).reshape(x.shape)
    floating = dtype and tensor.is_floating_point()
    return tensor.to(getattr(torch, dtype)) if floating else tensor

  with files.replaced(path) as unfinished:
    torch.save({'model': {k: tensor(x) for k, x in arrays.items()}}, unfinished)
  return True


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
  """A contiguous array, a floating one in `dtype` ('' as it is)."""
  # Of ml_dtypes, which jax brings, NumPy knows bfloat16 by its name.
  x = np.asarray(x)
  shape = x.shape  # ascontiguousarray makes a vector of a scalar
  kept = not dtype or not np.issubdtype(x.dtype, np.floating)
  return np.ascontiguousarray(x if kept else x.astype(dtype)).reshape(shape)


@contextlib.contextmanager
def made(out: Path, overwrite: bool = False) -> Iterator[Path]:
  """A directory to write into, which becomes `out` when all is written."""
  out = Path(os.path.realpath(out))
  refuse(out, overwrite)
  unfinished = f'.{out.name}.{os.getpid()}.tmp'
  place, old = out.with_name(unfinished), out.with_name(f'{unfinished}.old')
  try:
    place.mkdir()
    yield place
    if out.exists():
      os.replace(out, old)
    os.replace(place, out)
  except OSError as error:
    raise UserError(f'cannot write {out} ({error.strerror})') from error
  finally:
    if old.exists() and not out.exists():
      os.replace(old, out)
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def refuse(out: Path, overwrite: bool) -> None:
  """Raises UserError for a directory that must not be written."""
  if not out.exists():
    return
  if not overwrite:
    raise UserError(f'--out={out} is there: name another, or give --overwrite')
  names = {x.name for x in out.iterdir()} if out.is_dir() else {out.name}
  if not out.is_dir() or not names <= set(WRITTEN):
    strange = min(names - set(WRITTEN), default=out.name)
    raise UserError(
      f'--out={out} holds what no export has written ({strange}): name another'
    )


LOAD = {
  'timm_vit': "timm.create_model('local-dir:DIR', pretrained=True)",
  'timm_convnext': "timm.create_model('local-dir:DIR', pretrained=True)",
  'mae': (
    "model.load_state_dict(torch.load('model.pth')['model'], strict=False)"
  ),
  'detectron2': (
    'cfg.train.init_checkpoint = "model.pth?matching_heuristics=True"'
  ),
  'mmseg': "init_cfg=dict(type='Pretrained', checkpoint='model.pth')",
  'internimage': (
    "model.load_state_dict(torch.load('model.pth')['model'], strict=False)"
  ),
}


def readme(net: Source, family: str, written: Written, dtype: str) -> str:
  """The model card."""
  fields = ', '.join(
    f'{x.name}={value}'
    for x in dataclasses.fields(written.net)
    if x.name not in ('parent', 'name', *adapt.COMPUTED)
    and ((value := getattr(written.net, x.name)) or value is False)
  )
  load = LOAD.get(family)
  if load is None:
    name = written.config['architectures'][0]
    more = '' if name not in POOLED or 'pooler' in written.parts else (
      ', add_pooling_layer=False'
    )
    load = f"transformers.{name}.from_pretrained('DIR'{more})"
  lines = [
    '# Weights exported by m3i_jax', '',
    f'- model: {net.model["name"]}, {fields}',
    f'- parameters: {written.count:.3f} M, {dtype}',
    f'- pictures: {written.size} x {written.size}, RGB, normalised by '
    'ImageNet\'s mean (.485, .456, .406) and deviation (.229, .224, .225)',
    f'- format: {family}', '', 'Load it with', '', f'    {load}', '',
  ]  # fmt: skip
  if net.model['name'] == 'text':
    lines = [x for x in lines if not x.startswith('- pictures')]
  lines += [f'- {note}' for note in written.notes]
  if written.left_out:
    lines.append(f'- left out: {", ".join(written.left_out)}')
  return '\n'.join(lines).rstrip() + '\n'
