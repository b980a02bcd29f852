"""What a source is, found by looking at it."""

import os
import re

from m3i_jax.errors import UserError
from m3i_jax.prepare import (
    conventions,
    extracted,
    folder,
    imagenet,
    tables,
    tars,
)
from m3i_jax.prepare.folder import Tree
from m3i_jax.prepare.items import Layout, Options
from m3i_jax.prepare.metadata import is_metadata

_KNOWN = (
    'a folder of pictures, ImageNet (tars, folders, Kaggle), a table (.csv '
    '.tsv .jsonl .parquet), tars of webdataset or img2dataset (also '
    'x-{000..042}.tar), tfds:NAME'
)
# The flags of columns and keys that are not for every kind of source.
_COLUMNS = ('image', 'label', 'text', 'id')
_IGNORED = {'folder': _COLUMNS, 'imagenet': _COLUMNS, 'webdataset': ('id',)}
_PACKED = ('.zip', '.7z', '.rar', '.gz', '.bz2', '.xz', '.zst')


def recognise(source: str, options: Options) -> Layout:
  """The layout of whatever `source` is.

  Args:
    source: a path, a range of tars, or tfds:NAME.
    options: the flags of the user.

  Raises:
    UserError: it is nothing that can be read, something of it is missing, or
      an option has no meaning for it.
  """
  try:
    layout = _recognise(source, options)
  except OSError as error:
    told = error.strerror or type(error).__name__
    where = error.filename or source
    raise UserError(f'cannot read {where}: {told}') from error
  _refuse_ignored(source, layout, options)
  return layout


def _refuse_ignored(source: str, layout: Layout, options: Options) -> None:
  """UserError for an option that would do nothing."""
  for name in _IGNORED.get(layout.kind, ()):
    if getattr(options, name):
      raise UserError(
          f'--{name} names a column of a table, and {source} is of the kind '
          f'{layout.kind!r}: leave it out'
      )
  if options.split not in (Options.split, *layout.splits) or (
      options.split != Options.split and len(layout.splits) > 1
  ):
    raise UserError(
        f'--split={options.split}: {source} has its own splits, '
        f'{", ".join(layout.splits)}: leave it out, or name the folder of one'
    )


def _recognise(source: str, options: Options) -> Layout:
  if source.startswith('tfds:'):
    return _tfds(source, options)
  if conventions.is_address(source):
    raise UserError(f'{source} is an address: copy it to this machine first')
  members = tars.expand(source)
  if members:
    return tars.recognise(members, os.path.dirname(members[0]) or '.', options)
  path = os.path.expanduser(source)
  if os.path.isdir(path):
    return _folder(os.path.normpath(path), options)
  if os.path.isfile(path):
    return _file(path, options)
  raise UserError(f'no such file or folder: {source}; understood is {_KNOWN}')


def _file(path: str, options: Options) -> Layout:
  name = os.path.basename(path).lower()
  root = os.path.dirname(path) or '.'
  if tars.is_tar(name):
    layout = imagenet.recognise_tars(path, options)
    return layout or tars.recognise([path], root, options)
  if name.endswith(tables.SUFFIXES):
    return _of_tables(root, [os.path.basename(path)], options)
  if name.endswith(_PACKED):
    raise UserError(f'{path} is packed: unpack it, then name its folder')
  if conventions.is_picture(name):
    raise UserError(f'{path} is one picture: name its folder')
  raise UserError(f'{path} is not understood; understood is {_KNOWN}')


def _folder(root: str, options: Options) -> Layout:
  if _is_tfds(root):
    return _tfds(root, options)
  layout = imagenet.recognise_tars(root, options)
  if layout:
    return layout
  root = extracted.home(root)
  tree = folder.walk(root, options.absolute)
  members = sorted(
      path
      for paths in tree.others.values()
      for path in paths
      if tars.is_tar(path)
  )
  found = _tables(tree)
  if members and tree.pictures:
    raise UserError(
        f'{root} has pictures ({next(iter(tree.pictures))}) and tars '
        f'({members[0]}): name the folder of one kind'
    )
  if members:
    paths = [os.path.join(root, path) for path in members]
    return tars.recognise(paths, root, options)
  if found and (not tree.pictures or is_metadata(found[0])):
    return _of_tables(root, found, options)
  if not tree.pictures:
    raise UserError(f'{root}: {_seen(tree)}; understood is {_KNOWN}')
  layout = extracted.recognise(root, tree, options)
  return layout or folder.recognise(root, tree, options)


def _tables(tree: Tree) -> list[str]:
  """The tables of one suffix; Hugging Face's metadata before others."""
  kinds = [  # bytes may be in Parquet only
    tree.others.get(suffix, []) for suffix in reversed(tables.SUFFIXES)
  ]
  found = [list(filter(is_metadata, paths)) for paths in kinds] + kinds
  return next(filter(None, found), [])


def _of_tables(root: str, found: list[str], options: Options) -> Layout:
  names = {os.path.join(root, path): path for path in found}
  splits = conventions.splits_by_name(names, options.split)
  return tables.recognise(splits, root, options)


def _is_tfds(root: str) -> bool:
  about = 'dataset_info.json'
  if os.path.isfile(os.path.join(root, about)):
    return True
  return any(
      re.fullmatch(r'\d+\.\d+\.\d+', name)
      and os.path.isfile(os.path.join(root, name, about))
      for name in os.listdir(root)
  )


def _seen(tree: Tree) -> str:
  counts = [
      f'{len(paths):,} {suffix or "without suffix"}'
      for suffix, paths in sorted(
          tree.others.items(), key=lambda item: (-len(item[1]), item[0])
      )
  ]
  links = conventions.counted(len(tree.links), 'link')
  links = f', {links} not followed without --absolute' if tree.links else ''
  if not counts:
    return f'no files seen{links}'
  return f'no pictures; seen are files {", ".join(counts[:8])}{links}'


def _tfds(source: str, options: Options) -> Layout:
  from m3i_jax.prepare import tfds_names  # seconds to import: only if needed

  return tfds_names.recognise(source, options)
