"""The names by which a source is understood without being told."""

import os
import re
from collections.abc import Mapping

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Options

PICTURES = (
    'jpg', 'jpeg', 'jpe', 'jfif', 'png', 'webp', 'gif', 'bmp', 'tif', 'tiff',
    'ppm', 'pgm', 'pbm', 'pnm', 'avif', 'jp2',
)  # fmt: skip
CAPTIONS = ('txt', 'caption', 'captions')  # members of a tar, one a line

# Columns of tables and keys of JSON, the first one found is taken.
IMAGE = (
    'image', 'image_path', 'path', 'file', 'filename', 'filepath', 'file_name',
    'img', 'jpg', 'png', 'webp',
)  # fmt: skip
LABEL = ('label', 'class', 'category')
TEXT = ('caption', 'captions', 'text', 'title')
ID = ('id', 'key')
SPLIT = ('split',)
URL = ('url', 'image_url', 'img_url')

SPLITS = {
    'train': 'train',
    'training': 'train',
    'val': 'validation',
    'valid': 'validation',
    'validation': 'validation',
    'dev': 'validation',
    'test': 'test',
    'testing': 'test',
}
_SPLIT = re.compile(rf'(?:^|[^a-z])({"|".join(SPLITS)})(?![a-z])', re.I)
PROBE = 1000  # records looked at before a source is refused

_REMOTE = ('http://', 'https://', 's3://', 'gs://', 'ftp://')
_LITTER = ('__macosx', 'thumbs.db', 'desktop.ini')


def is_picture(name: str) -> bool:
  """Whether a file is one by its suffix, in any case."""
  return os.path.splitext(name)[1][1:].lower() in PICTURES


def is_hidden(name: str) -> bool:
  """Whether a file or folder is a system's own and no data."""
  return name.startswith('.') or name.lower() in _LITTER


def is_address(value: str) -> bool:
  """Whether a file's name is one of the network."""
  return value.lower().startswith(_REMOTE)


def split_order(splits: dict) -> dict:
  """The same with train, validation and test first, in that order."""
  usual = ('train', 'validation', 'test')
  first = {name: splits[name] for name in usual if name in splits}
  return first | {name: splits[name] for name in sorted(splits)}


def splits_by_name(
    names: Mapping[str, str], usual: str
) -> dict[str, list[str]]:
  """Files by the words for splits in their names, such as 'val'.

  Args:
    names: path -> name, as it is in the source.
    usual: the split if no name has such a word; asked for, if it is not the
      flag's default: then it is that of all.

  Raises:
    UserError: some have one and others have none, or they have several and
      one was asked for.
  """
  splits: dict[str, list[str]] = {}
  for path, name in names.items():
    match = _SPLIT.search(name)
    split = SPLITS[match[1].lower()] if match else ''
    splits.setdefault(split, []).append(path)
  if usual != Options.split:
    if len(splits) > 1 and splits.keys() - {usual, ''}:
      named = ', '.join(sorted(filter(None, splits)))
      raise UserError(
          f'--split={usual}, but files are named by {named}: name those of one '
          'split, or leave --split out'
      )
    return {usual: list(names)}
  bare = splits.pop('', [])
  if bare and splits:
    raise UserError(
        f'some files are named by a split ({", ".join(sorted(splits))}) and '
        f'{bare[0]} is not: name those of one split, or a folder of them, with '
        '--split'
    )
  return splits or {usual: bare}


def listed(flag: str) -> tuple[str, ...]:
  """The names in a flag, with commas between."""
  return tuple(name.strip() for name in flag.split(',') if name.strip())


def counted(number: int, what: str) -> str:
  """'1 label', '2,000 labels', 'no labels'."""
  if number == 0:
    return f'no {what}s'
  return f'{number:,} {what}' + ('s' if number > 1 else '')
