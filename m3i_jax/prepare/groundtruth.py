"""The labels of ImageNet's validation pictures, which lie in a file apart."""

import csv
import os
import re
import zlib
from collections.abc import Callable

from m3i_jax.errors import UserError
from m3i_jax.prepare import archive, raw

_KAGGLE = 'LOC_val_solution.csv'
_DEVKIT = 'ILSVRC2012_devkit_t12'
_META = 'meta.mat'
_TRUTH = 'ILSVRC2012_validation_ground_truth.txt'
_BOXES = os.path.join('Annotations', 'CLS-LOC', 'val')


def find(
    places: list[str], names: list[str], classes: set[str]
) -> dict[str, str]:
  """The wnid of every validation picture.

  Args:
    places: folders that may hold Kaggle's list, its boxes, or the devkit.
    names: the pictures' files, ILSVRC2012_val_00000001.JPEG and so on.
    classes: those of the training set, if there is one.

  Raises:
    UserError: none of the files is there, or it lacks a picture.
  """
  for place in places:
    for where, read in (
        (_KAGGLE, _kaggle),
        (_DEVKIT + '.tar.gz', _devkit_tar),
        (_DEVKIT, _devkit_folder),
        (_BOXES, _boxes),
    ):
      path = os.path.join(place, where)
      if os.path.exists(path):
        return _checked(path, _read(path, read), names)
  known = _shipped()
  truth = {name: known.get(_stem(name), '') for name in names}
  found = set(truth.values())
  if '' not in found and (not classes or found <= classes):
    return truth
  raise UserError(
      f'no labels of the validation pictures in {places[0]}: put {_DEVKIT}'
      f'.tar.gz (2,568,145 bytes, from image-net.org) or {_KAGGLE} (of Kaggle) '
      'there, or move the pictures into folders of their classes'
  )


def _read(
    path: str, read: Callable[[str], dict[str, str]]
) -> dict[str, str]:
  try:
    return read(path)
  except UserError:
    raise
  except (ValueError, csv.Error, zlib.error) as error:
    raise UserError(f'{path} is damaged ({error}): copy it again') from error


def _checked(
    path: str, known: dict[str, str], names: list[str]
) -> dict[str, str]:
  truth = {name: known.get(_stem(name), '') for name in names}
  missing = [name for name, wnid in truth.items() if not wnid]
  if missing:
    raise UserError(
        f'{path} has no label of {len(missing):,} of the {len(names):,} '
        f'validation pictures, such as {missing[0]}: it is damaged or another '
        "set's"
    )
  return truth


def _stem(name: str) -> str:
  return os.path.splitext(name)[0]


def _kaggle(path: str) -> dict[str, str]:
  """Rows such as 'ILSVRC2012_val_00048981,n03995372 85 1 499 272'."""
  with open(path, encoding='utf-8-sig', newline='') as file:
    return {
        row[0]: row[1][:9]
        for row in csv.reader(file)
        if len(row) > 1 and re.match(r'n\d{8}\b', row[1])
    }


def _boxes(path: str) -> dict[str, str]:
  """XML files with the first object's <name>n01751748</name>."""
  found = {}
  for name in os.listdir(path):
    data = raw.read_file(os.path.join(path, name), raw.TEXT_BYTES)
    match = re.search(rb'<name>\s*(n\d{8})\s*</name>', data)
    if match:
      found[_stem(name)] = match[1].decode()
  return found


def _devkit_tar(path: str) -> dict[str, str]:
  found = {}
  with archive.open_tar(path) as file:
    for member in archive.members(file):
      name = os.path.basename(member.name)
      if name in (_META, _TRUTH) and member.size < raw.PICTURE_BYTES:
        found[name] = archive.read(file, member)
  return _devkit(path, found)


def _devkit_folder(path: str) -> dict[str, str]:
  found = {}
  for name in (_META, _TRUTH):
    file = os.path.join(path, 'data', name)
    if os.path.exists(file):
      found[name] = raw.read_file(file)
  return _devkit(path, found)


def _devkit(path: str, files: dict[str, bytes]) -> dict[str, str]:
  """Line i of the truth is the ILSVRC2012_ID of picture i, from 1."""
  for name in (_META, _TRUTH):
    if name not in files:
      raise UserError(f'{path} has no data/{name}')
  synsets = wnids(files[_META])
  numbers = files[_TRUTH].split()
  try:
    found = {
        f'ILSVRC2012_val_{i:08d}': synsets[int(number) - 1]
        for i, number in enumerate(numbers, 1)
    }
  except (ValueError, IndexError) as error:
    raise UserError(f'{path}: {_TRUTH} does not fit {_META}') from error
  return found


def wnids(meta: bytes) -> list[str]:
  """The wnids in a MATLAB 5 file, in the order of their ILSVRC2012_ID.

  Its one variable lists the synsets in that order; among its texts only the
  wnids have this form, so that no reader of MATLAB files is needed.
  """
  data = meta
  if meta[128:132] == (15).to_bytes(4, 'little'):  # a compressed element
    data = zlib.decompressobj().decompress(meta[136:], raw.PICTURE_BYTES)
  found = re.findall(rb'(?<![a-z0-9])n\d{8}(?!\d)', data)
  if not found:  # 16 bits a character
    found = re.findall(rb'n\0(?:\d\0){8}', data)
  texts = (wnid.replace(b'\0', b'').decode() for wnid in found)
  return list(dict.fromkeys(texts))


def _shipped() -> dict[str, str]:
  """TFDS brings the list, by the number in the pictures' names."""
  import tensorflow_datasets as tfds  # seconds to import: only if needed

  path = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
  if not path.exists():
    return {}
  wnids = path.read_text().split()
  return {f'ILSVRC2012_val_{i:08d}': wnid for i, wnid in enumerate(wnids, 1)}
