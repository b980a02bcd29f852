"""Connections that tell every process of a run when one of them is gone.

JAX notices a process that was killed after its heartbeats' time-out, and one
that raises while the others compute not at all: they wait in a collective.
Here each process holds a connection to process 0. The kernel closes it when
the process ends, whatever ended it; a process that fails says why before.
Process 0 passes that on, and each leaves with the line and the exit code.
"""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterable

from m3i_jax.errors import STUCK

_PATIENCE = 10.0  # seconds that process 0 waits for the others to leave
_GREETING = 60.0  # seconds that connecting may take


def leave(code: int, line: str) -> None:
  """Ends this process at once, with a line; nothing else can hold it up."""
  with contextlib.suppress(OSError, ValueError):
    print(f'm3i_jax: {line}', file=sys.stderr, flush=True)
    sys.stdout.flush()
  os._exit(code)


class Lifeline:
  """One end of the connections; `end` and `close` are how a process leaves.

  names: what each process is called in a message, by its number.
  """

  def __init__(self, names: list[str]):
    self._names = names
    self._peers: dict[int, socket.socket] = {}
    self._ending = threading.Lock()

  def end(self, code: int, line: str, source: int | None = None) -> None:
    """Tells every process `line`, and leaves with `code`.

    source: the process that is the reason, if it is not this one.
    """
    if not self._ending.acquire(blocking=False):
      threading.Event().wait()  # another thread of this process is leaving
    line = ' '.join(line.split())
    told = f'end {code} {line}\n'.encode()
    for process, peer in self._peers.items():
      if process != source:
        with contextlib.suppress(OSError):
          peer.sendall(told)
    if 0 not in self._peers:
      # This is process 0, whose end JAX answers by aborting the others.
      _wait_for_ends(self._peers.values())
    leave(code, line)

  def close(self) -> None:
    """To be called when all is done: the ends that follow mean nothing."""
    for peer in self._peers.values():
      with contextlib.suppress(OSError):
        peer.sendall(b'bye\n')

  def listen(self) -> tuple[int, str]:
    """Process 0's part: (port, secret) for the others to connect with."""
    server = socket.create_server(('', 0), backlog=len(self._names))
    secret = secrets.token_hex(16)
    accept = lambda: self._accept(server, secret)
    threading.Thread(target=accept, name='lifeline', daemon=True).start()
    return server.getsockname()[1], secret

  def connect(self, process: int, host: str, port: int, secret: str) -> None:
    """The part of the other processes; OSError if process 0 is out of reach."""
    peer = socket.create_connection((host, port), timeout=_GREETING)
    peer.sendall(f'{secret} {process}\n'.encode())
    self._hold(0, peer)

  def _accept(self, server: socket.socket, secret: str) -> None:
    with server:
      while len(self._peers) < len(self._names) - 1:
        peer, _ = server.accept()
        peer.settimeout(_GREETING)
        with contextlib.suppress(OSError, ValueError):
          greeting = peer.makefile().readline().split()
          if greeting[:1] == [secret]:
            self._hold(int(greeting[1]), peer)

  def _hold(self, process: int, peer: socket.socket) -> None:
    peer.settimeout(None)
    _notice_a_lost_host(peer)
    self._peers[process] = peer
    watch = lambda: self._watch(process, peer)
    threading.Thread(target=watch, name='lifeline', daemon=True).start()

  def _watch(self, process: int, peer: socket.socket) -> None:
    """Reads what a process says until it ends, and ends as it did."""
    words = []
    with contextlib.suppress(OSError):
      words = peer.makefile().readline().split(maxsplit=2)
    if words[:1] == ['bye']:
      return
    if words[:1] == ['end']:
      self.end(int(words[1]), words[-1], process)
    self.end(
      STUCK, f'{self._names[process]} is lost: see its log; run the same '
      'line again to go on from the last checkpoint', process,
    )  # fmt: skip


def _notice_a_lost_host(peer: socket.socket) -> None:
  # A host that lost its power closes nothing: ask it, for a minute.
  peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for option, value in (
    ('TCP_KEEPIDLE', 20), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 4),
  ):  # fmt: skip
    if hasattr(socket, option):
      peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _wait_for_ends(peers: Iterable[socket.socket]) -> None:
  until = time.monotonic() + _PATIENCE
  for peer in peers:
    with contextlib.suppress(OSError):
      peer.settimeout(max(0.01, until - time.monotonic()))
      while peer.recv(4096):
        pass
