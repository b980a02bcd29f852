"""Formats of checkpoints, and how a state of an older one becomes a new one.

1: before TrainState had `guard` and `counts`; says no format. 2: says it. What
these two count depends on the config, too, which may change when a run goes on.
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
LATER = ('guard', 'counts')


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


def stored(asked: PyTree, saved: PyTree) -> PyTree:
  """A state that is asked for, with LATER as a checkpoint has them."""
  if not hasattr(asked, 'guard'):
    return asked
  fields = {k: v for k, v in vars(asked).items() if k not in LATER}
  for name in LATER:
    place = jax.tree.leaves(getattr(asked, name))[0].sharding
    if saved.get(name):
      fields[name] = {
        k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for k, x in saved[name].items()
      }
  return fields


def completed(restored: PyTree, asked: PyTree) -> PyTree:
  """The state that was asked for; what was not saved is as in a fresh one."""
  if not hasattr(asked, 'guard'):
    return restored
  fresh = jax.jit(
    lambda: dict(
      guard=guard.init('norm' in asked.guard), counts=guard.init_counts()
    ),
    out_shardings=jax.tree.map(
      lambda x: x.sharding, {name: getattr(asked, name) for name in LATER}
    ),
  )()
  later = {
    name: {k: restored.get(name, {}).get(k, x) for k, x in made.items()}
    for name, made in fresh.items()
  }
  return asked.replace(**restored | later)


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
