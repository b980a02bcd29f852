"""Weights of an encoder in one file: arrays in safetensors, and what they are.

The file says of itself which model it holds, so nothing else is needed to build
it again. A run's directory is read in the same way.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from m3i_jax import checkpoint, files
from m3i_jax.errors import UserError

Model = dict[str, Any]

# Parameters that no module reads, kept for the way back to where they are from.
KEPT = ('mask_token', 'pooler/', 'cls_position')


def save(path: str | os.PathLike, encoder: Mapping, model: Mapping) -> None:
  """Writes an encoder's parameters, atomically.

  Args:
    encoder: nested dict of arrays, as in the train state's 'encoder'.
    model: the fields of config.model that built it.
  """
  flat = {name: np.asarray(x) for name, x in _flat(encoder).items()}
  told = {'model': json.dumps(dict(model))}
  files.write(path, safetensors.numpy.save(flat, told))


def describe(path: str | os.PathLike) -> Model:
  """The model that a file, or a run's directory, holds: fields of config.model.

  Raises:
    UserError: there is no such file, or it is of another kind.
  """
  path = Path(path)
  if path.is_dir():
    return dict(checkpoint.restore_config(str(path))['model'])
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      told = json.loads((file.metadata() or {}).get('model', 'null'))
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise UserError(
      f'cannot read weights from {path} ({error}): name a .safetensors file '
      'of m3i_jax, or the workdir of a run'
    ) from error
  if not isinstance(told, dict):
    raise UserError(
      f'{path} does not say which model it holds: write it with '
      'm3i_jax.weights.save'
    )
  return told


def read(path: str | os.PathLike) -> dict:
  """All parameters, float32 NumPy arrays in nested dicts.

  Of a run they are the online encoder's newest.

  Raises:
    UserError: there is no such file, or it has values that are not finite.
  """
  path = Path(path)
  if path.is_dir():
    flat = _flat(checkpoint.restore_params(str(path))['encoder'])
  else:
    describe(path)
    flat = safetensors.numpy.load_file(path)
  flat = {name: np.asarray(x, np.float32) for name, x in flat.items()}
  for name, x in flat.items():
    if not np.isfinite(x).all():
      raise UserError(f'{path}: {name} has values that are not finite')
  return traverse_util.unflatten_dict(flat, sep='/')


def load(path: str | os.PathLike, like: Mapping) -> dict:
  """The encoder's parameters, as `read` gives them, if they are those wanted.

  Args:
    like: the shapes that are wanted, a nested dict.
  Raises:
    UserError: the file has not these parameters.
  """
  wanted = {name: x.shape for name, x in _flat(like).items()}
  flat = {
    name: x
    for name, x in _flat(read(path)).items()
    if name in wanted or not name.startswith(KEPT)
  }
  found = {name: x.shape for name, x in flat.items()}
  differ = [n for n in sorted(found | wanted) if found.get(n) != wanted.get(n)]
  if differ:
    raise UserError(
      f'{path} does not fit its model: {differ[0]} is '
      f'{found.get(differ[0], "absent")} there, and '
      f'{wanted.get(differ[0], "absent")} is wanted ({len(differ)} differ); '
      'pictures of another size have other learned positions, see '
      'import_weights --image_size'
    )
  return traverse_util.unflatten_dict(flat, sep='/')


def _flat(tree: Mapping) -> dict[str, Any]:
  return traverse_util.flatten_dict(dict(tree), sep='/')
