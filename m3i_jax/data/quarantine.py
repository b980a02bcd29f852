"""The list of pictures that a run could not read."""

import dataclasses
import functools
import json
import os

from absl import logging

from m3i_jax.errors import UserError

NAME = 'quarantine.jsonl'
_FEW = 100  # bad pictures that may be bad luck


@dataclasses.dataclass(frozen=True)
class Quarantine:
  """Logs each unreadable picture, and lists it in a file, once a process.

  path: of JSON lines {'id', 'reason'}, to which all processes append; '' for
    none.
  """

  path: str = ''

  def add(self, record_id: str, reason: str) -> None:
    _add(self.path, record_id, reason)

  def check(self, replaced: int, seen: int, most: float) -> None:
    """Ends a run whose data are too bad.

    Args:
      replaced: of `seen` pictures so far.
      most: the share of them that may be.
    Raises:
      UserError: more are, and _FEW at least.
    """
    if replaced >= _FEW and replaced > most * seen:
      raise UserError(
        f'{replaced:,} of {seen:,} pictures could not be read, more than '
        f'config.data.max_bad={most}: see {self.path}, mend the data or raise '
        'it'
      )


@functools.lru_cache(maxsize=10_000)
def _add(path: str, record_id: str, reason: str) -> None:
  logging.warning('picture %s is replaced: %s', record_id, reason)
  if path:
    line = json.dumps({'id': record_id, 'reason': reason}) + '\n'
    # One write of one line, so that lines of several processes do not mix.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
      os.write(file, line.encode())
    finally:
      os.close(file)
