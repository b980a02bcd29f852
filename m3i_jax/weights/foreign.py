"""Files of other projects: arrays under their official names.

Nothing in a file is ever run: safetensors and .npz hold arrays alone, and
.pth is read by torch, where it is installed, with weights_only=True. What a
header promises is compared with the file before anything is read.
"""

import dataclasses
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from m3i_jax.errors import UserError

Arrays = dict[str, np.ndarray]

GIB = 2**30
JSON = 2**26  # bytes of a config.json, or of an index, at most
NESTED = 4  # wrappers around the weights, at most
LIMIT = 32.0  # GiB of float32
# In a directory, the first of these that is there.
NAMES = (
  'model.safetensors.index.json', 'model.safetensors', 'pytorch_model.bin',
  'model.pth',
)  # fmt: skip
PICKLED = ('.pth', '.pt', '.bin', '.ckpt', '.pkl')
# Where training scripts put the weights that they save with other things.
WRAPPERS = {
  'model': ('model', 'state_dict', 'module', 'model_state_dict'),
  'ema': ('model_ema', 'state_dict_ema', 'ema', 'ema_state_dict'),
}
# Of every name alike: data-parallel, torch.compile, Lightning.
PREFIXES = ('module.', '_orig_mod.', 'model.')
NPZ_ERRORS = (
  OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
CONVERT = (
  'python -c "import torch; from safetensors.torch import save_file; '
  "d = torch.load('{path}', map_location='cpu', weights_only=True); "
  "d = d.get('model', d); "
  'save_file({{k: v.clone().contiguous() for k, v in d.items() '
  "if torch.is_tensor(v)}}, '{out}')\""
)


@dataclasses.dataclass(frozen=True)
class Foreign:
  """What a file holds.

  Attributes:
    arrays: by official name; floating ones are float32.
    config: the config.json beside it, {} if there is none.
  """

  arrays: Arrays
  config: dict[str, Any]


def read(
  path: str | os.PathLike, which: str = 'model', limit: float = LIMIT
) -> Foreign:
  """Reads a file or a directory.

  Args:
    path: .safetensors, .npz, .pth (.pt, .bin; needs torch), or a directory that
      has model.safetensors (or shards and their index) and config.json.
    which: 'model' or 'ema', of the .pth files that hold both.
    limit: GiB that the arrays may take as float32.
  Raises:
    UserError: there is no such file, it is damaged, or it is of another kind.
  """
  path = Path(path)
  if path.is_dir():
    found = [path / name for name in NAMES if (path / name).is_file()]
    if not found:
      raise UserError(f'{path} has none of {", ".join(NAMES)}: name a file')
    path = found[0]
  if not path.is_file():
    raise UserError(f'there is no file {path}')
  beside = path.with_name('config.json')
  told = path.name in NAMES and beside.is_file()
  config = _json(beside) if told else {}
  if path.name.endswith('.safetensors.index.json'):
    arrays = _shards(path, limit)
  elif path.suffix == '.safetensors':
    arrays = dict(_safetensors(path, limit))
  elif path.suffix == '.npz':
    arrays = dict(_npz(path, limit))
  elif path.suffix in PICKLED:
    arrays = _pickled(path, which, limit)
  else:
    raise UserError(
      f'{path}: of unknown kind; name a .safetensors, .npz or .pth file, or a '
      'directory that has one'
    )
  if not arrays:
    raise UserError(f'{path} holds no arrays')
  return Foreign(_bare(arrays), config)


def _json(path: Path) -> dict:
  try:
    if path.stat().st_size > JSON:
      raise UserError(f'{path} is longer than {JSON >> 20} MiB')
    told = json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f'{path} is no JSON ({error})') from error
  if not isinstance(told, dict):
    raise UserError(f'{path}: an object is wanted')
  return told


def _allowed(path: Path, size: float, limit: float) -> None:
  if size > limit * GIB:
    raise UserError(
      f'{path} holds {size / GIB:.1f} GiB, more than {limit:g}: if that is '
      'meant, raise --max_gib'
    )


def _float32(path: Path, name: str, x: np.ndarray) -> np.ndarray:
  if x.dtype.kind in 'biu':
    return x
  # bfloat16 and the 8-bit floats are 'V' or 'f', as ml_dtypes registers them.
  if x.dtype.kind in 'cOSUMm' or x.dtype.names:
    raise UserError(f'{path}: {name} is {x.dtype}, no number')
  return x.astype(np.float32)


def _shards(index: Path, limit: float) -> Arrays:
  """The arrays of the files that an index names, all beside it."""
  listed = _json(index).get('weight_map')
  if not isinstance(listed, dict):
    raise UserError(f'{index} has no weight_map')
  arrays: Arrays = {}
  for name in sorted(set(map(str, listed.values()))):
    shard = index.with_name(Path(name).name)
    if Path(name).name != name or shard.suffix != '.safetensors':
      raise UserError(f'{index}: shard {name!r} is no .safetensors beside it')
    left = limit - sum(x.nbytes for x in arrays.values()) / GIB
    arrays |= _safetensors(shard, left)
  absent = sorted(set(listed) - set(arrays))
  if absent:
    raise UserError(
      f'{index} names {absent[0]}, which no shard has ({len(absent)} absent)'
    )
  return arrays


def _safetensors(path: Path, limit: float) -> Iterator[tuple[str, np.ndarray]]:
  """The library compares the header with the file's size when it opens it."""
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      names = list(file.keys())
      shapes = [file.get_slice(name).get_shape() for name in names]
      _allowed(path, 4 * sum(map(math.prod, shapes)), limit)
      for name in names:
        yield name, _float32(path, name, file.get_tensor(name))
  except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'cannot read {path} ({_line(error)}): it is cut off, or no safetensors'
    ) from error


def _npz(path: Path, limit: float) -> Iterator[tuple[str, np.ndarray]]:
  try:
    with zipfile.ZipFile(path) as file:
      entries = file.infolist()
      _allowed(path, sum(entry.file_size for entry in entries), limit)
      for entry in entries:
        _check_header(path, file, entry)
    with np.load(path, allow_pickle=False) as arrays:
      for name in arrays.files:
        yield name, _float32(path, name, arrays[name])
  except NPZ_ERRORS as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'cannot read {path} ({_line(error)}): it is cut off, or no .npz of '
      'plain arrays'
    ) from error


def _check_header(path: Path, file: zipfile.ZipFile, entry) -> None:
  """Whether an array has the size of its entry: NumPy would reserve first."""
  with file.open(entry) as array:
    version = np.lib.format.read_magic(array)
    header = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if header is None:
      raise ValueError(f'{entry.filename} is of version {version}')
    shape, _, dtype = header(array)
    if dtype.hasobject:
      raise UserError(
        f'{path}: {entry.filename} holds pickled objects, which are never read'
      )
    if math.prod(shape) * dtype.itemsize + array.tell() != entry.file_size:
      raise ValueError(f'{entry.filename} has not the size that it says')


def _pickled(path: Path, which: str, limit: float) -> Arrays:
  """By torch, which reads tensors and containers and nothing else."""
  try:
    import torch
  except ImportError as error:
    out = path.with_suffix('.safetensors').name
    raise UserError(
      f'{path} can be read where torch is installed: pip install torch, or '
      f'make a .safetensors of it where it is: '
      + CONVERT.format(path=path.name, out=out)
    ) from error
  import argparse

  size = path.stat().st_size
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as file:
      size = sum(entry.file_size for entry in file.infolist())
  _allowed(path, size, limit)
  try:
    # MAE's script saves its flags beside the weights: plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
      saved = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # torch has no one kind for a bad file
    raise UserError(
      f'cannot read {path} ({_line(error)}): it is cut off, or holds more than '
      'tensors, which is never run'
    ) from error
  saved = {
    str(name): x.detach()
    for name, x in _unwrapped(path, saved, which).items()
    if isinstance(x, torch.Tensor)
  }
  for name, x in saved.items():
    if x.layout != torch.strided or x.is_quantized or x.is_meta:
      raise UserError(f'{path}: {name} is no plain tensor')
  # One number may be stored, and be seen as many.
  _allowed(path, 4 * sum(x.numel() for x in saved.values()), limit)
  floats = lambda x: x.float() if x.is_floating_point() else x
  return {
    name: _float32(path, name, floats(x).contiguous().numpy())
    for name, x in saved.items()
  }


def _unwrapped(path: Path, saved: Any, which: str) -> dict:
  """The dict of tensors in what a training script saved."""
  if which == 'ema':
    inner = [k for k in WRAPPERS['ema'] if _has(saved, k)]
    if not inner:
      told = ', '.join(list(saved)[:8]) if isinstance(saved, dict) else 'none'
      raise UserError(f'{path} has no EMA weights: its entries are {told}')
    saved = saved[inner[0]]
  for _ in range(NESTED):
    inner = [k for k in WRAPPERS['model'] if _has(saved, k)]
    saved = saved[inner[0]] if inner else saved
  if not isinstance(saved, dict):
    raise UserError(f'{path} holds a {type(saved).__name__}, no named tensors')
  return saved


def _has(saved: Any, key: str) -> bool:
  return isinstance(saved, dict) and isinstance(saved.get(key), dict)


def _bare(arrays: Arrays) -> Arrays:
  """Names without what all of them begin with."""
  for prefix in PREFIXES:
    if all(name.startswith(prefix) for name in arrays):
      return _bare({k.removeprefix(prefix): x for k, x in arrays.items()})
  return arrays


def _line(error: Exception) -> str:
  """The first line of what another library says."""
  text = str(error).strip().splitlines()
  return (text[0] if text else type(error).__name__)[:160]
