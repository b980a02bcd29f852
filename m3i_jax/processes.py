"""The processes of one run: how they meet, wait for each other, and end.

JAX finds the others by itself on TPU pods, Slurm and the other clusters that
it knows. Elsewhere three variables of the environment start each process by
hand: M3I_COORDINATOR=HOST:PORT of process 0, M3I_PROCESSES, M3I_PROCESS_ID.
"""

import collections
import contextlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
from jax._src import distributed  # as orbax: jax.distributed hides its client

from m3i_jax.errors import STUCK, Stuck, UserError
from m3i_jax.lifeline import Lifeline, leave

T = TypeVar('T')
_VARIABLES = ('M3I_COORDINATOR', 'M3I_PROCESSES', 'M3I_PROCESS_ID')
_MEETING = 300  # seconds in which all processes have to start
_LIMITS = dict(
  initialization_timeout=2 * _MEETING,  # JAX aborts then: `_in_time` is first
  heartbeat_timeout_seconds=100,
  shutdown_timeout_seconds=300,
)
_CAUSE = 3.0  # seconds in which another process's end would be known
_passed = collections.Counter()  # barriers, by name


def initialize() -> None:
  """Joins the processes of the run; for a single one, lets SIGTERM save it.

  JAX hears SIGTERM only when it is initialised as distributed, so a single
  process is too. Call it before anything that uses a device: JAX raises
  RuntimeError after that. A second call changes nothing. Where not all of the
  processes come in time, those that did leave with a line and errors.STUCK.

  Raises:
    UserError: a variable that is missing or wrong.
  """
  if jax.distributed.is_initialized():
    return
  given = by_hand(os.environ)
  try:
    with _in_time(given):
      if given:
        _join(*given)
      else:
        jax.distributed.initialize(**_LIMITS)
  except ValueError as error:
    # All that JAX says when nothing was given and no cluster was found.
    if str(error) != 'coordinator_address should be defined.':
      raise
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    _join(address, 1, 0, coordinator_bind_address=address)


def by_hand(environment: dict[str, str]) -> tuple[str, int, int] | None:
  """(coordinator, processes, this one) of the variables; None without them."""
  given = {n: environment[n] for n in _VARIABLES if environment.get(n)}
  if not given:
    return None
  missing = [n for n in _VARIABLES if n not in given]
  if missing:
    raise UserError(
      f'{" and ".join(given)} without {" and ".join(missing)}: give all three '
      'or none'
    )
  address = given['M3I_COORDINATOR']
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(
      f'M3I_COORDINATOR={address} is not HOST:PORT of process 0'
    )
  total = _number('M3I_PROCESSES', given, 1, None)
  return address, total, _number('M3I_PROCESS_ID', given, 0, total - 1)


def who() -> str:
  """'process 1 of 4 (its host)'."""
  state = distributed.global_state
  return (
    f'process {state.process_id} of {state.num_processes} '
    f'({socket.gethostname()})'
  )


def barrier(name: str, seconds: float = 600.0) -> None:
  """Returns when every process is here; one process never waits.

  Raises:
    Stuck: not all of them came within the time.
  """
  if distributed.global_state.num_processes == 1:
    return
  _passed[name] += 1
  begun = time.monotonic()
  try:
    distributed.global_state.client.wait_at_barrier(
      f'm3i_jax/{name}/{_passed[name]}', int(1000 * seconds)
    )
  except jax.errors.JaxRuntimeError as error:
    raise Stuck(_missed(name, time.monotonic() - begun, error)) from error


def first(
  name: str, work: Callable[[], T], seconds: float = 1800.0
) -> T | None:
  """work() on process 0 alone, for which the others wait at `name`.

  Returns what it returns on process 0, None on the others. What it raises
  ends every process, if they are `guarded`.
  """
  made = work() if jax.process_index() == 0 else None
  barrier(name, seconds)
  return made


def guarded(work: Callable[[], T], seconds: float = 3600.0) -> T:
  """work(), such that no process outlives a failure of another.

  An error of one process becomes the line, and the exit code, with which all
  of them leave; so does the loss of one. seconds: within which all the others
  are done, once one is. A single process simply calls work().
  """
  if distributed.global_state.num_processes == 1:
    return work()
  lifeline = _lifeline()
  try:
    result = work()
    barrier('end of the run', seconds)
  except BaseException as error:
    code = getattr(error, 'code', None)  # of those that explain themselves
    if not isinstance(code, int):
      # A collective fails where a process is lost: then that is the line.
      time.sleep(_CAUSE)
      traceback.print_exc()
      code = 1
    lifeline.end(code, f'{who()}: {str(error) or repr(error)}')
  lifeline.close()
  return result


@contextlib.contextmanager
def _in_time(given: tuple[str, int, int] | None) -> Iterator[None]:
  """Ends this process if the others do not come; JAX would abort it."""
  whom = 'this process of several'
  if given:
    whom = f'process {given[2]} of {given[1]}, M3I_COORDINATOR={given[0]},'
  told = (
    f'{whom} on {socket.gethostname()} waited {_MEETING} s for the others to '
    'start: see their logs, and whether they reach the host of process 0'
  )
  late = threading.Timer(_MEETING, leave, (STUCK, told))
  late.daemon = True
  late.start()
  try:
    yield
  finally:
    late.cancel()


def _join(address: str, count: int, process: int, **more) -> None:
  jax.distributed.initialize(
    address, count, process, cluster_detection_method='deactivate',
    **_LIMITS, **more,
  )  # fmt: skip


def _number(name: str, given: dict, low: int, high: int | None) -> int:
  text = given[name]
  if text.isdecimal() and low <= int(text) <= (high or int(text)):
    return int(text)
  to = f'{low} to {high}' if high is not None else f'at least {low}'
  raise UserError(f'{name}={text}: it must be a whole number, {to}')


def _lifeline() -> Lifeline:
  """Connects this process; every one has to call it."""
  state = distributed.global_state
  client, me = state.client, state.process_id
  client.key_value_set(f'm3i_jax/host/{me}', who())
  barrier('hosts', 300)
  names = [
    client.blocking_key_value_get(f'm3i_jax/host/{n}', 10_000)
    for n in range(state.num_processes)
  ]
  lifeline = Lifeline(names)
  if me == 0:
    client.key_value_set('m3i_jax/lifeline', '{} {}'.format(*lifeline.listen()))
  else:
    told = client.blocking_key_value_get('m3i_jax/lifeline', 60_000)
    port, secret = told.split()
    host = state.coordinator_address.rpartition(':')[0].strip('[]')
    lifeline.connect(me, host, int(port), secret)
  barrier('lifeline', 300)
  return lifeline


def _missed(barrier: str, seconds: float, error: Exception) -> str:
  """One line about a barrier that not all processes reached."""
  lines = str(error).splitlines()
  after = [n for n, s in enumerate(lines) if 'task names' in s]
  missing = lines[after[0] + 1 :] if after else []
  absent = ', '.join(s.strip() for s in missing if s.strip().isdecimal())
  return (
    f'{who()} waited {seconds:.0f} s at {barrier!r} for process '
    f'{absent or "unknown"}: see its log; the same line goes on from the last '
    'checkpoint'
  )
