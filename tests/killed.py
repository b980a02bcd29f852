"""`python -m tests.killed MOMENT ARGS`: m3i_jax.main, ended at a moment.

MOMENT is `step:N`, `save:N` or `evaluation:N` for SIGKILL in the middle of
what is done there, `term:N` for SIGTERM (of the last process) after step N,
`early` for Ctrl-C before the first step, or `never`. Every seventh picture of
the data is damaged.
"""

import os
import signal
import sys
import time

import jax
from absl import app

from m3i_jax import integrity, main
from m3i_jax.data import sources
from m3i_jax.evals import features
from m3i_jax.program import Program
from m3i_jax.steplog import StepLog


class Damaged:
  """A source of which some pictures cannot be read."""

  def __init__(self, source):
    self._source = source

  def __getattr__(self, name):
    return getattr(self._source, name)

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    record = self._source[index]
    return record | {'image': b'no picture'} if index % 7 == 3 else record


def kill():
  os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name: str, act) -> None:
  """Has act(*arguments) called before owner.name(*arguments)."""
  real = getattr(owner, name)

  def both(*arguments, **more):
    act(*arguments)
    return real(*arguments, **more)

  setattr(owner, name, both)


def arm(moment: str) -> None:
  what, _, number = moment.partition(':')
  done = [0]

  def step(log, number_done, measured):
    done[0] = number_done
    if number_done != int(number or -1):
      return
    if what == 'step':
      kill()  # it is being computed
    if what == 'term':
      if jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(4)

  def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(4)  # until JAX has heard of it

  before(StepLog, 'step', step)
  if what == 'early':
    before(Program, 'lower', interrupt)
  if what == 'save':
    # The arrays are written, the step has not got its name.
    before(
      integrity, 'seal',
      lambda path, items: path.name.startswith(f'{number}.') and kill(),
    )  # fmt: skip
  if what == 'evaluation':
    before(
      features.EncodedFeatures, 'labels',
      lambda *_: done[0] == int(number) and kill(),
    )  # fmt: skip


if __name__ == '__main__':
  arm(sys.argv.pop(1))
  opened = sources.open_source
  sources.open_source = lambda *a, **k: Damaged(opened(*a, **k))
  app.run(main.main, flags_parser=main.parse)
