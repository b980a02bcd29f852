"""Processes that meet, wait, fail and are killed; each test starts some."""

import re

import pytest

from m3i_jax import errors, processes
from m3i_jax.errors import UserError
from tests import several

BY_HAND = {
  'M3I_COORDINATOR': 'host:1234',
  'M3I_PROCESSES': '4',
  'M3I_PROCESS_ID': '3',
}


def test_variables_start_a_process_by_hand():
  assert processes.by_hand({}) is None
  assert processes.by_hand(BY_HAND) == ('host:1234', 4, 3)


@pytest.mark.parametrize(
  'changed, told',
  [
    ({'M3I_PROCESS_ID': ''}, 'without M3I_PROCESS_ID: give all three or none'),
    ({'M3I_PROCESS_ID': '4'}, 'M3I_PROCESS_ID=4: .* whole number, 0 to 3'),
    ({'M3I_PROCESS_ID': '-1'}, 'M3I_PROCESS_ID=-1: .* whole number, 0 to 3'),
    ({'M3I_PROCESSES': 'two'}, 'M3I_PROCESSES=two: .* at least 1'),
    ({'M3I_PROCESSES': '0'}, 'M3I_PROCESSES=0: .* at least 1'),
    ({'M3I_COORDINATOR': 'host'}, 'M3I_COORDINATOR=host is not HOST:PORT'),
    ({'M3I_COORDINATOR': ':80'}, 'M3I_COORDINATOR=:80 is not HOST:PORT'),
    ({'M3I_COORDINATOR': 'a:99999'}, 'M3I_COORDINATOR=a:99999 is not'),
  ],
)
def test_a_mistake_in_the_variables_is_one_line(changed, told):
  with pytest.raises(UserError, match=told):
    processes.by_hand(BY_HAND | changed)


def test_one_process_never_waits():
  processes.barrier('anything', 0.0)
  assert processes.first('work', lambda: 5) == 5
  assert processes.guarded(lambda: 7) == 7
  with pytest.raises(KeyError):
    processes.guarded(lambda: {}[0])


# What each process does is told by the argument, after a common start.
PROGRAM = """
import sys, time
from m3i_jax import processes
from m3i_jax.errors import UserError
processes._MEETING = 3
processes.initialize()
processes.initialize()  # a second call changes nothing
import jax, numpy as np
from jax.experimental import multihost_utils

def collective():
  return multihost_utils.process_allgather(np.float32(jax.process_index()))

def work(how=sys.argv[1]):
  print('sum', collective().sum(), flush=True)
  me = jax.process_index()
  processes.first('first', lambda: print('only', me, flush=True))
  if how == 'barrier' and me == 1:
    time.sleep(60)
  if how == 'barrier':
    processes.barrier('never', 1)
  if how == f'error{me}':
    raise UserError('no such thing: name another')
  if how == f'bug{me}':
    raise KeyError('a bug')
  while how != 'end':
    collective()

processes.guarded(work)
print('end')
"""


def run(how: str, count: int = 2) -> list[tuple[int, str]]:
  return several.finish(several.start(['-c', PROGRAM, how], count))


def line(output: str) -> str:
  """The one line of this package in what a process printed."""
  (told,) = re.findall('^m3i_jax: .*', output, re.MULTILINE)
  return told


def test_processes_meet_and_end():
  ended = run('end')
  assert [code for code, _ in ended] == [0, 0]
  for _, output in ended:
    assert 'sum 1.0' in output and output.endswith('end\n')
  assert ['only 0' in output for _, output in ended] == [True, False]


def test_an_error_of_one_ends_all_with_its_line_and_code():
  ended = run('error1')
  assert [code for code, _ in ended] == [2, 2]
  for _, output in ended:
    assert re.search(
      r'process 1 of 2 \(.+\): no such thing: name another$', line(output)
    )
    assert 'Traceback' not in output


def test_a_bug_of_the_first_ends_all():
  (code0, output0), (code1, output1) = run('bug0')
  assert (code0, code1) == (1, 1)
  assert "KeyError: 'a bug'" in output0
  assert "process 0 of 2" in line(output1) and 'a bug' in line(output1)


def killed(victim: int) -> tuple[int, str]:
  """How the other of two processes ends when `victim` is killed."""
  running = several.start(['-c', PROGRAM, 'forever'], 2)
  for _ in range(3):  # [Gloo] is connected, sum, only (of process 0)
    running[0].stdout.readline()
  running[victim].kill()
  return several.finish(running)[1 - victim]


def test_a_killed_process_ends_the_others():
  code, output = killed(1)
  assert code == errors.STUCK, output
  assert 'process 1 of 2' in line(output) and 'is lost' in line(output)


def test_a_killed_coordinator_ends_the_others():
  code, output = killed(0)
  # JAX may be first: it aborts where the coordinator is gone.
  assert code in (errors.STUCK, -6), output
  assert 'is lost' in output or 'another task died' in output


def test_a_barrier_names_itself_and_who_is_missing():
  ended = run('barrier')
  assert [code for code, _ in ended] == [errors.STUCK] * 2
  told = line(ended[0][1])
  assert re.search(r"waited \d+ s at 'never' for process 1", told)


def test_a_process_alone_does_not_wait_for_ever():
  alone, other = several.start(['-c', PROGRAM, 'end'], 2)
  other.kill()
  ((code, output), _) = several.finish([alone, other])
  assert code == errors.STUCK
  assert re.search(r'process 0 of 2.* waited \d+ s', line(output))
