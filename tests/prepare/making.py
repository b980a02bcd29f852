"""Small sources of every layout, and small pictures to put into them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from m3i_jax.prepare.items import Bad, Item, Layout

# A tar's members: bytes, or a TarInfo's fields for what is no file.
Members = Mapping[str, bytes | dict]


def picture(number: int = 0, kind: str = 'PNG', side: int = 4) -> bytes:
  """An encoded picture, another one for each number."""
  pixels = np.full((side, side, 3), number * 37 % 256, np.uint8)
  pixels[0, 0] = (number % 256, number // 256 % 256, 1)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind)
  return file.getvalue()


def tree(root: Path, files: Mapping[str, bytes | str]) -> Path:
  """Writes files by their path below `root`; texts as UTF-8."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
  return root


def tar(
    members: Members, mode: str = 'w', kind: int = tarfile.GNU_FORMAT
) -> bytes:
  """A tar in memory: its members in the order given."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode=mode, format=kind) as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      if isinstance(content, bytes):
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
      else:
        for key, value in content.items():
          setattr(info, key, value)
        archive.addfile(info)
  return file.getvalue()


def items(layout: Layout, split: str = 'train') -> list[Item]:
  """All good records of a split, in order."""
  return [one for one in records(layout, split) if isinstance(one, Item)]


def bad(layout: Layout, split: str = 'train') -> list[tuple[str, str]]:
  """(id, reason) of all bad records of a split."""
  return [
      (one.id, one.reason)
      for one in records(layout, split)
      if isinstance(one, Bad)
  ]


def records(layout: Layout, split: str = 'train') -> list[Item | Bad]:
  """All records of a split, in order; parts know their sizes, or say 0."""
  found = []
  for part in layout.splits[split]:
    inside = list(part)
    assert part.size in (0, len(inside))
    found += inside
  return found


def brief(items_: list[Item]) -> list[tuple[str, int, tuple[str, ...]]]:
  """(id, label, captions) of items."""
  return [(item.id, item.label, item.captions) for item in items_]
