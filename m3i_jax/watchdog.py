"""Ends a process that makes no progress, and says where it stood.

One process of several that waits for data, or for a host that is gone, holds
all the others in a collective; no library ends that wait by itself.
"""

import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator

from m3i_jax import processes
from m3i_jax.errors import STUCK
from m3i_jax.lifeline import leave


class Watchdog:
  """Leaves with errors.STUCK after `seconds` without a beat.

  Before that it prints the process, the phase, the last step and what every
  thread was doing. A phase that begins or ends is a beat.

  Use it as a context manager. seconds: 0 for never. who: this process in the
  message, `processes.who()` if not given.
  """

  def __init__(
    self,
    seconds: float,
    who: str = '',
    leave: Callable[[int, str], None] = leave,
  ):
    self._seconds, self._leave = seconds, leave
    self._who = who or processes.who()
    self._phases, self._step = ['start'], None
    self._seen = time.monotonic()
    self._done = threading.Event()
    if seconds:
      threading.Thread(
        target=self._watch, name='watchdog', daemon=True
      ).start()

  def beat(self, step: int | None = None) -> None:
    """Something was done, such as `step`."""
    self._seen = time.monotonic()
    if step is not None:
      self._step, self._phases[0] = step, 'train'

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Names what is done meanwhile; phases nest."""
    self._phases.append(name)
    self.beat()
    try:
      yield
    finally:
      self._phases.pop()
      self.beat()

  def __enter__(self) -> 'Watchdog':
    return self

  def __exit__(self, *_) -> None:
    """Watches no longer."""
    self._done.set()

  def _watch(self) -> None:
    while not self._done.wait(min(self._seconds / 10, 5.0)):
      idle = time.monotonic() - self._seen
      if idle > self._seconds:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        self._leave(STUCK, self._told(idle))
        return

  def _told(self, idle: float) -> str:
    last = 'no step' if self._step is None else f'step {self._step}'
    return (
      f'{self._who}: no progress for {idle:.0f} s in phase '
      f'{" / ".join(self._phases[1:] or self._phases)!r}, {last} was the '
      'last one done (config.watchdog is the limit); what each thread was '
      'doing is above; the same line goes on from the last checkpoint'
    )
