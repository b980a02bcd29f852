"""Checkpoints of a whole run.

A run's directory holds `checkpoints/STEP/{state,config,files.json}`. Orbax
writes them in the background and renames a step into place when it is
complete, so what has a step's name can be restored, on any mesh. What a disk
did to it since is known from its sums: such a step is set aside, and the one
before it is restored.
"""

import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

import m3i_jax
from m3i_jax import formats, integrity, processes
from m3i_jax.errors import Stuck, UserError

PyTree = Any
UNREADABLE = 'unreadable'  # in the name of a step that was set aside

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

  def __init__(self, workdir: str, every: int, keep: int | None = 2):
    """Opens or makes `workdir/checkpoints`; UserError if it cannot be written.

    Removes what a killed process left half-written there. keep=None keeps all.
    """
    self.directory = _directory(workdir)
    with _writing(self.directory):
      processes.first('open the checkpoints', lambda: _clean(self.directory))
      self._manager = ocp.CheckpointManager(
        self.directory, options=_options(self.directory, every, keep),
        item_handlers={
          'state': ocp.StandardCheckpointHandler(),
          'config': ocp.JsonCheckpointHandler(),
        },
      )  # fmt: skip
      # A SIGTERM is for the step after the last one that JAX was told of.
      self._manager.reached_preemption(self._manager.latest_step() or 0)

  def save(
    self, step: int, state: PyTree, config: dict, force: bool = False
  ) -> bool:
    """Saves `state` if the step is due; says so before all is written.

    The arrays are copied before it returns: they may be donated afterwards.
    config: JSON values, kept beside the state with the versions of libraries.
    force saves also a step that is not due, such as the last one.
    """
    if step == self._manager.latest_step():
      return False
    about = formats.numbered({'config': config, 'versions': versions()})
    with _writing(self.directory):
      return self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          config=ocp.args.JsonSave(about),
        ),
        force=force,
      )

  def restore(self, abstract_state: PyTree) -> tuple[int, PyTree]:
    """The newest sound step and its state.

    Steps that cannot be read are set aside, with a warning. A checkpoint of an
    older format gets what it lacks as a fresh state has it.

    abstract_state: the state as jax.ShapeDtypeStruct leaves, whose shardings
    decide where each array goes, whatever mesh it was saved from.
    UserError: there is none, or it holds arrays of other names or shapes, or
    a newer version wrote it.
    """
    while True:
      processes.first('check the checkpoints', self._set_unsound_aside)
      self._manager.reload()
      step = _step(self.directory, self.latest_step())
      try:
        return step, self._restored(step, abstract_state)
      except (UserError, MemoryError):
        raise
      except Exception as error:  # Orbax and TensorStore raise anything
        # What its sums vouch for is sound: memory, or the disk, was short.
        if integrity.sealed(self.directory / str(step)):
          raise
        self._set_aside(step, ' '.join(str(error).split())[:200])
        if jax.process_count() > 1:
          # The others may have read it, or wait for this process.
          raise Stuck(
            f'checkpoint {step} cannot be read and was set aside: the same '
            'line again goes on from the one before'
          ) from error

  def latest_step(self) -> int | None:
    """The newest complete step, None if there never was one.

    UserError: there are some, but all of them were set aside.
    """
    step = self._manager.latest_step()
    if step is None and any(self.directory.glob(f'*{UNREADABLE}*')):
      raise UserError(
        f'no checkpoint in {self.directory} can be read: mend one and remove '
        f"'.{UNREADABLE}' from its name, or name another workdir"
      )
    return step

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

  def _restored(self, step: int, abstract_state: PyTree) -> PyTree:
    path = self.directory / str(step)
    formats.about(path)  # refuses a newer format
    saved = self._manager.item_metadata(step).state
    asked = formats.stored(abstract_state, saved)
    formats.refuse_other_shapes(path, saved, asked)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(asked))
    return formats.completed(
      self._manager.restore(step, args=args).state, abstract_state
    )

  def _set_unsound_aside(self) -> None:
    for step in sorted(_steps(self.directory), reverse=True):
      fault = integrity.fault(self.directory / str(step))
      if not fault:
        return
      self._set_aside(step, fault)

  def _set_aside(self, step: int, why: str) -> None:
    path = self.directory / str(step)
    before = len(list(self.directory.glob(f'{step}.{UNREADABLE}*')))
    aside = f'{path}.{UNREADABLE}{before or ""}'
    with suppress(FileNotFoundError):  # another process was first
      path.rename(aside)
    print(
      f'warning: {path} cannot be read ({why}): set aside as {aside}',
      file=sys.stderr,
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
  return formats.about(_newest(workdir))['config']


def _options(
  directory: epath.Path, every: int, keep: int | None
) -> ocp.CheckpointManagerOptions:
  return ocp.CheckpointManagerOptions(
    save_decision_policy=policies.AnySavePolicy([
      policies.FixedIntervalPolicy(every),
      policies.PreemptionCheckpointingPolicy(),
    ]),
    max_to_keep=keep,
    async_options=ocp.AsyncOptions(
      timeout_secs=1200,  # of each of its barriers, too
      post_finalization_callback=lambda: _seal(directory),
    ),
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      barrier_sync_key_prefix='m3i_jax_checkpoint'
    ),
  )


def _seal(directory: epath.Path) -> None:
  """Adds the sums to the step that is about to get its name."""
  # On a bucket it has it from the start, and is not complete without a mark.
  unfinished = '*' if '://' in str(directory) else '*.orbax-checkpoint-tmp*'
  for path in directory.glob(unfinished):
    if (path / 'state').exists() and not (path / integrity.NAME).exists():
      integrity.seal(path, ('state', 'config'))


def _directory(workdir: str) -> epath.Path:
  path = epath.Path(workdir) / 'checkpoints'
  return path if '://' in str(path) else path.resolve()


def _newest(workdir: str) -> epath.Path:
  directory = _directory(workdir)
  return directory / str(_step(directory, max(_steps(directory), default=None)))


def _steps(directory: epath.Path) -> list[int]:
  """The complete steps."""
  return ocp.utils.checkpoint_steps(directory) if directory.exists() else []


def _step(directory: epath.Path, step: int | None) -> int:
  if step is None:
    raise UserError(
      f'no complete checkpoint in {directory}: train first, or name the '
      'workdir of a run'
    )
  return step


def _clean(directory: epath.Path) -> None:
  """Makes the directory; Orbax leaves half a step behind after a kill."""
  directory.mkdir(parents=True, exist_ok=True)
  for path in directory.glob('*.orbax-checkpoint-tmp*'):
    path.rmtree()


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
