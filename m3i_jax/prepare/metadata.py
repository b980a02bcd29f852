"""Hugging Face's tables beside pictures: a `metadata` file in their folder.

https://huggingface.co/docs/datasets/image_dataset
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.prepare import conventions, folder, raw
from m3i_jax.prepare.items import Options

Splits = dict[str, list[str]]


def is_metadata(path: str) -> bool:
  """Whether a table is one of these, whatever its suffix."""
  return os.path.splitext(os.path.basename(path))[0].lower() == 'metadata'


def gather(
    splits: Splits, root: str, suffixes: Sequence[str], options: Options
) -> tuple[Splits, set[str]]:
  """The tables of all kinds, and the pictures that they should name.

  Args:
    splits: the tables found; if one is no `metadata`, they stay as they are.
    root: the folder that they are in, or below.
    suffixes: of tables.

  Raises:
    UserError: a split's folder has pictures and no table, or as
      `conventions.splits_by_name`.
  """
  given = [path for inside in splits.values() for path in inside]
  if not all(map(is_metadata, given)):
    return splits, set()
  tree = folder.walk(root, options.absolute)
  found = [os.path.relpath(path, root) for path in given]
  homes = set(map(os.path.dirname, found))
  for suffix in suffixes:
    for path in filter(is_metadata, tree.others.get(suffix, [])):
      if not _is_below(os.path.dirname(path), homes):
        found.append(path)
        homes.add(os.path.dirname(path))
  for inside in sorted(set(map(os.path.dirname, tree.pictures))):
    top = inside.split(os.sep)[0]
    if top.lower() in conventions.SPLITS and not _is_below(inside, homes):
      raise UserError(
          f'{os.path.join(root, inside)} has pictures and no table, and '
          f'{os.path.join(root, found[0])} names none of them: give it a '
          'metadata.csv, too, or name the folder of one split, with --split'
      )
  names = {os.path.join(root, path): path for path in sorted(found)}
  pictures = {os.path.normpath(os.path.join(root, p)) for p in tree.pictures}
  return conventions.splits_by_name(names, options.split), pictures


def _is_below(inside: str, homes: set[str]) -> bool:
  """Whether a folder or one above it is among these; '' is above all."""
  while inside and inside not in homes:
    inside = os.path.dirname(inside)
  return inside in homes


def unnamed(pictures: set[str], tables: Iterable[Any], column: str) -> str:
  """How many pictures no table names, as an end of the line that is told."""
  named = set()
  for table in tables if pictures else ():
    home = os.path.dirname(table.path)
    for _, values in table.rows(columns=(column,)):
      path = None if isinstance(values, raw.Unusable) else values.get(column)
      if isinstance(path, str):
        named.add(os.path.normpath(os.path.join(home, path.strip())))
  left = len(pictures - named)
  return (
      f'; {conventions.counted(left, "picture")} that no table names'
      if left else ''
  )
