"""Networks of timm and transformers as arrays, see golden/make_models.py."""

import pathlib

import jax
import numpy as np
from flax import traverse_util

FILE = pathlib.Path(__file__).with_name('golden') / 'models.npz'


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
  """The parameters, a nested dict, and the other arrays by name."""
  params, others = {}, {}
  with np.load(FILE) as file:
    for key in file.files:
      if key.startswith(f'{name}/params/'):
        params[key.removeprefix(f'{name}/params/')] = file[key]
      elif key.startswith(f'{name}/'):
        others[key.removeprefix(f'{name}/')] = file[key]
  if others['input'].dtype == np.float16:
    others['input'] = others['input'].astype(np.float32)
  return traverse_util.unflatten_dict(params, sep='/'), others


def paths(tree: dict) -> set[str]:
  """The names of all leaves."""
  return set(traverse_util.flatten_dict(tree, sep='/'))


def relative(found, wanted) -> float:
  """|found - wanted| / |wanted| over all leaves."""
  found, wanted = (
    np.concatenate([np.ravel(np.float32(x)) for x in jax.tree.leaves(tree)])
    for tree in (found, wanted)
  )
  return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
