"""Files that are whole, or not there."""

import os
from pathlib import Path


def write(path: str | os.PathLike, content: bytes | str) -> None:
  """Atomic: a reader sees the old file or the new one."""
  path = Path(path)
  if isinstance(content, str):
    content = content.encode()
  unfinished = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  unfinished.write_bytes(content)
  os.replace(unfinished, path)
