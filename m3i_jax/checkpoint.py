"""Checkpoints of a whole run.

A run's directory holds `checkpoints/STEP/{state,config}`. Orbax writes them
in the background and renames a step into place when it is complete, so what
has a step's name can be restored, on any mesh.
"""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

import m3i_jax
from m3i_jax.errors import UserError

PyTree = Any

# Orbax logs the traceback, from each of its threads, of what it also raises.
logging.getLogger('absl').addFilter(
  lambda record: '/orbax/' not in record.pathname
)


def versions() -> dict[str, str]:
  """Versions of the libraries that decide what a checkpoint means."""
  names = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  libraries = {name: importlib.metadata.version(name) for name in names}
  return {'m3i_jax': m3i_jax.__version__, **libraries}


class Checkpoints:
  """The checkpoints of the run in `workdir`: every N steps, the last few.

  `save` is to be called after every step by every process: Orbax decides
  whether to save, and on SIGTERM agrees on a step between the processes.
  """

  def __init__(self, workdir: str, every: int, keep: int | None = 1):
    """Opens or makes `workdir/checkpoints`; UserError if it cannot be written.

    Removes what a killed process left half-written there. keep=None keeps all.
    """
    self.directory = _directory(workdir)
    with _writing(self.directory):
      self.directory.mkdir(parents=True, exist_ok=True)
      _remove_unfinished(self.directory)
      self._manager = ocp.CheckpointManager(
        self.directory,
        options=ocp.CheckpointManagerOptions(
          save_decision_policy=policies.AnySavePolicy([
            policies.FixedIntervalPolicy(every),
            policies.PreemptionCheckpointingPolicy(),
          ]),
          max_to_keep=keep,
        ),
        item_handlers={
          'state': ocp.StandardCheckpointHandler(),
          'config': ocp.JsonCheckpointHandler(),
        },
      )

  def save(
    self, step: int, state: PyTree, config: dict, force: bool = False
  ) -> bool:
    """Saves `state` if the step is due; says so before all is written.

    The arrays are copied before it returns: they may be donated afterwards.
    config: JSON values, kept beside the state with the versions of libraries.
    force saves also a step that is not due, such as the last one.
    """
    if step == self.latest_step():
      return False
    with _writing(self.directory):
      return self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          config=ocp.args.JsonSave({'config': config, 'versions': versions()}),
        ),
        force=force,
      )

  def restore(self, abstract_state: PyTree) -> tuple[int, PyTree]:
    """The newest complete step and its state.

    abstract_state: the state as jax.ShapeDtypeStruct leaves, whose shardings
    decide where each array goes, whatever mesh it was saved from.
    UserError: there is none, or it holds arrays of other names or shapes.
    """
    step = _step(self.directory, self.latest_step())
    self._refuse_other_shapes(step, abstract_state)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state)),
    )
    return step, restored.state

  def latest_step(self) -> int | None:
    """The newest complete step, None if there is none."""
    return self._manager.latest_step()

  def reached_preemption(self, step: int) -> bool:
    """Whether to stop after `step`, whose `save` has just been called."""
    return self._manager.reached_preemption(step)

  def wait(self) -> None:
    """Returns when all that was saved is written; UserError if it cannot be."""
    with _writing(self.directory):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and ends the background threads; to be called before the exit."""
    with _writing(self.directory):
      self._manager.close()

  def _refuse_other_shapes(self, step: int, abstract_state: PyTree) -> None:
    saved = _shapes(self._manager.item_metadata(step).state)
    asked = _shapes(abstract_state)
    differ = [
      name
      for name in sorted(saved | asked)
      if saved.get(name) != asked.get(name)
    ]
    if differ:
      name = differ[0]
      raise UserError(
        f'{self.directory / str(step)} does not fit this config: {name} is '
        f'{saved.get(name, "absent")} there and {asked.get(name, "absent")} '
        f'here ({len(differ)} differ): use the config of that run, or another '
        'workdir'
      )


def restore_params(workdir: str, item: str = 'params') -> PyTree:
  """One part of the newest state as nested dicts of NumPy arrays.

  Needs no mesh, no model and no accelerator. item: a field of the state,
  such as 'params' or 'ema'; nothing else is read.
  """
  path = _newest(workdir) / 'state'
  with ocp.PyTreeCheckpointer() as checkpointer:
    saved = checkpointer.metadata(path).item_metadata.tree
    if item not in saved:
      raise UserError(f'{path} has no {item!r}: it has {", ".join(saved)}')
    wanted = {item: saved[item]}
    restored = checkpointer.restore(
      path,
      args=ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
        ),
        partial_restore=True,
      ),
    )
  return restored[item]


def restore_config(workdir: str) -> dict:
  """The config of the newest checkpoint, as it was given to `save`."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    return checkpointer.restore(_newest(workdir) / 'config')['config']


def _directory(workdir: str) -> epath.Path:
  path = epath.Path(workdir) / 'checkpoints'
  return path if '://' in str(path) else path.resolve()


def _newest(workdir: str) -> epath.Path:
  directory = _directory(workdir)
  steps = ocp.utils.checkpoint_steps(directory) if directory.exists() else []
  return directory / str(_step(directory, max(steps, default=None)))


def _step(directory: epath.Path, step: int | None) -> int:
  if step is None:
    raise UserError(
      f'no complete checkpoint in {directory}: train first, or name the '
      'workdir of a run'
    )
  return step


def _remove_unfinished(directory: epath.Path) -> None:
  # Orbax leaves these behind after a kill, whatever its options say.
  if jax.process_index() == 0:
    for path in directory.glob('*.orbax-checkpoint-tmp*'):
      path.rmtree()


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """{path of a leaf: its shape}; the paths of a dataclass and a dict agree."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in leaves
  }


@contextmanager
def _writing(directory: epath.Path) -> Iterator[None]:
  """Turns what a full or read-only disk raises into one line."""
  try:
    yield
  except (OSError, ValueError) as error:
    # Of a failed write, TensorStore names the cause last.
    reason = getattr(error, 'strerror', None) or str(error).split(': ')[-1]
    raise UserError(
      f'cannot write checkpoints to {directory} ({reason}): free some space, '
      'or name a workdir that can be written'
    ) from error
