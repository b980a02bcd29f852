"""Folders of splits that lie deeper than where they are read as splits."""

import os
import re
from collections.abc import Iterable

from m3i_jax.errors import UserError
from m3i_jax.prepare.conventions import SPLITS

# Also COCO's train2017, and train_images.
_LIKE = re.compile(
    rf'({"|".join(sorted(SPLITS, key=len, reverse=True))})'
    r'(?:[-_]?(?:\d+|set|images))?',
    re.IGNORECASE,
)


def refuse(root: str, folders: Iterable[str]) -> None:
  """UserError if folders that would be labels are those of splits.

  A single train among cars and ships is a label.

  Args:
    root: the source.
    folders: of the pictures, as they follow the split's own.
  """
  inside: dict[str, set[str]] = {}  # folder -> the folders in it
  for path in folders:
    while path:
      above, name = os.path.split(path)
      inside.setdefault(above, set()).add(name)
      path = above
  found: dict[str, str] = {}  # split -> a folder that seems to be it
  for above, names in sorted(inside.items()):
    splits = {
        SPLITS[match[1].lower()]: os.path.join(above, name)
        for name in sorted(names)
        if (match := _LIKE.fullmatch(name))
    }
    if len(splits) > 1 or len(splits) == len(names):
      found = splits | found
  if len(found) > 1:
    raise UserError(
        f'{root}: {" and ".join(sorted(found.values()))} look like splits, and '
        'would become labels: name the folder that holds train/ and val/ '
        '(called so), or prepare each alone with --split'
    )
