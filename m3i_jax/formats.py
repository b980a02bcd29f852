"""Formats of checkpoints, and how a state of an older one becomes a new one.

1: before TrainState had `guard` and `counts`; says no format. 2: says it.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

import m3i_jax
from m3i_jax import guard
from m3i_jax.errors import UserError

PyTree = Any
CURRENT = 2


def numbered(about: dict) -> dict:
  """What a checkpoint says of itself, with the format of today."""
  return {'format': CURRENT, **about}


def about(path: epath.Path) -> dict:
  """What a checkpoint says of itself; UserError if it is of a newer format."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    about = checkpointer.restore(path / 'config')
  if about.get('format', 1) > CURRENT:
    raise UserError(
      f'{path} was written by m3i_jax {about["versions"]["m3i_jax"]} in format '
      f'{about["format"]}; this version, {m3i_jax.__version__}, reads formats '
      f'up to {CURRENT}: update m3i_jax'
    )
  return about


def stored(asked: PyTree, about: dict) -> PyTree:
  """What a checkpoint can have of a state that is asked for."""
  if about.get('format', 1) == 1 and hasattr(asked, 'guard'):
    return asked.replace(guard={}, counts={})
  return asked


def migrated(state: PyTree, asked: PyTree) -> PyTree:
  """The state with what its format did not have, as a fresh one has it."""
  if jax.tree.structure(state) == jax.tree.structure(asked):
    return state
  fresh = jax.jit(
    lambda: (guard.init('norm' in asked.guard), guard.init_counts()),
    out_shardings=jax.tree.map(
      lambda x: x.sharding, (asked.guard, asked.counts)
    ),
  )()
  return state.replace(guard=fresh[0], counts=fresh[1])


def refuse_other_shapes(path: epath.Path, saved: PyTree, asked: PyTree):
  """UserError if two states differ in the names or shapes of arrays."""
  saved, asked = _shapes(saved), _shapes(asked)
  differ = [
    name
    for name in sorted(saved | asked)
    if saved.get(name) != asked.get(name)
  ]
  if differ:
    name = differ[0]
    raise UserError(
      f'{path} does not fit this config: {name} is '
      f'{saved.get(name, "absent")} there and {asked.get(name, "absent")} '
      f'here ({len(differ)} differ): use the config of that run, or another '
      'workdir'
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """{path of a leaf: its shape}; the paths of a dataclass and a dict agree."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in leaves
  }
