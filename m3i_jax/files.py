"""Files that are whole, or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
  """Where to write what becomes `path`, or is removed if that fails."""
  path = Path(path)
  unfinished = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    yield unfinished
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: bytes | str) -> None:
  """Atomic: a reader sees the old file or the new one."""
  if isinstance(content, str):
    content = content.encode()
  with replaced(path) as unfinished:
    unfinished.write_bytes(content)
