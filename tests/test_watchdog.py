"""The watchdog, with a stand-in for leaving the process."""

import threading
import time

from m3i_jax import errors
from m3i_jax.watchdog import Watchdog
from tests import several


class Left:
  """What was given to `leave`, and when it is there."""

  def __init__(self):
    self.told, self.there = None, threading.Event()

  def __call__(self, code: int, line: str) -> None:
    self.told = code, line
    self.there.set()


def test_tells_process_phase_step_and_stacks(capfd):
  left = Left()
  dog = Watchdog(0.3, 'process 1 of 2 (host)', left)
  dog.beat(7)
  with dog.phase('evaluation'), dog.phase('knn'):
    assert left.there.wait(30)
  code, line = left.told
  assert code == errors.STUCK
  assert line.startswith('process 1 of 2 (host): no progress for ')
  assert "in phase 'evaluation / knn', step 7 was the last" in line
  stacks = capfd.readouterr().err
  assert 'test_tells_process_phase_step_and_stacks' in stacks


def test_beats_keep_it_quiet():
  left = Left()
  with Watchdog(2.0, 'process 0 of 1', left) as dog:
    for _ in range(15):
      time.sleep(0.2)
      dog.beat()
  assert not left.there.wait(2.5)  # nobody watches any longer


def test_a_phase_begins_and_ends_with_a_beat_and_its_name():
  left = Left()
  dog = Watchdog(0.5, 'process 0 of 1', left)
  with dog.phase('compile'):
    pass
  assert left.there.wait(30)
  assert "phase 'start', no step was the last one done" in left.told[1]


def test_between_phases_of_a_loop_it_trains():
  left = Left()
  Watchdog(0.2, 'process 0 of 1', left).beat(3)
  assert left.there.wait(30)
  assert "phase 'train', step 3 was the last one done" in left.told[1]


def test_zero_is_never():
  before = threading.active_count()
  dog = Watchdog(0, 'process 0 of 1')
  assert threading.active_count() == before
  with dog.phase('compile'):
    dog.beat()


PROGRAM = """
import time
from m3i_jax.watchdog import Watchdog
with Watchdog(0.3) as dog, dog.phase('loader'):
  time.sleep(60)
"""


def test_ends_a_process_that_sleeps():
  ((code, output),) = several.finish(several.start(['-c', PROGRAM]))
  assert code == errors.STUCK
  assert output.splitlines()[-1].startswith('m3i_jax: process 0 of 1 (')
  assert "phase 'loader'" in output and 'in _watch' in output
