"""Sums of a checkpoint's files: what was written is what is read.

A disk or a copy may lose the end of a file or change a bit of it; a reader of
arrays notices the first, mostly, and the second not at all.
"""

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

NAME = 'files.json'  # in a checkpoint: {path: [bytes, CRC-32]}
_PIECE = 2**24  # bytes read at a time


def seal(checkpoint: epath.Path, items: tuple[str, ...]) -> None:
  """Writes the sums of all files of these items, while they are unfinished."""
  names = [
    str(path.relative_to(checkpoint))
    for item in items
    for path in _files(checkpoint / item)
  ]
  (checkpoint / NAME).write_text(json.dumps(_sums(checkpoint, names)))


def sealed(checkpoint: epath.Path) -> bool:
  """Whether there are sums."""
  return (checkpoint / NAME).exists()


def fault(checkpoint: epath.Path) -> str:
  """What is wrong with a checkpoint's files; '' if nothing is known to be."""
  try:
    written = json.loads((checkpoint / NAME).read_text())
  except FileNotFoundError:
    return ''  # of before there were sums
  except (OSError, ValueError):
    return f'{NAME} cannot be read'
  found = _sums(checkpoint, list(written))
  for name, asked in written.items():
    if found[name] is None:
      return f'{name} is missing or cannot be read'
    if found[name][0] != asked[0]:
      return f'{name} has {found[name][0]} bytes instead of {asked[0]}'
    if found[name] != asked:
      return f'{name} is not what was written'
  return ''


def _files(directory: epath.Path) -> Iterator[epath.Path]:
  for path in sorted(directory.iterdir()):
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _sums(checkpoint: epath.Path, names: list[str]) -> dict:
  """{name: [bytes, CRC-32]}, None for a file that cannot be read."""

  def of(name: str) -> list[int] | None:
    size = total = 0
    try:
      with (checkpoint / name).open('rb') as file:
        while piece := file.read(_PIECE):
          size, total = size + len(piece), zlib.crc32(piece, total)
    except OSError:
      return None
    return [size, total]

  with ThreadPoolExecutor(8) as threads:  # CRCs are made without the lock
    return dict(zip(names, threads.map(of, names), strict=True))
