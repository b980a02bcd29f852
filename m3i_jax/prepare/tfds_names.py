"""Data sets of TFDS: prepared already, or built here by TFDS itself."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from m3i_jax.data import places, sources
from m3i_jax.data.describe import describe
from m3i_jax.errors import UserError
from m3i_jax.prepare import conventions, raw
from m3i_jax.prepare.items import Bad, Item, Layout, Options


@dataclasses.dataclass(frozen=True)
class TfdsPart:
  """Some records of a split, from `start` on; see items.Part.

  Attributes:
    image, label, texts, id: the features to read.
  """

  directory: str
  split: str
  start: int
  size: int
  image: str
  label: str = ''
  texts: tuple[str, ...] = ()
  id: str = ''

  @property
  def key(self) -> str:
    return f'{self.start:09d}'

  @property
  def fingerprint(self) -> str:
    about = os.path.join(self.directory, 'dataset_info.json')
    return raw.fingerprint([about], dataclasses.astuple(self))

  def __iter__(self) -> Iterator[Item | Bad]:
    records = _records(self.directory, self.split)
    for i in range(self.start, self.start + self.size):
      id_ = str(i)
      try:
        record = records[i]
        id_ = (str(record[self.id]) if self.id else '') or id_
        yield self._item(record, id_)
      except raw.Unusable as error:
        yield Bad(id_, str(error))
      except Exception as error:  # whatever a damaged record raises
        yield Bad(id_, f'record cannot be read: {_line(error)}')

  def _item(self, record: dict[str, Any], id_: str) -> Item:
    image = record[self.image]
    if not isinstance(image, bytes):
      raise raw.Unusable(f'no picture: {self.image!r} is not encoded')
    captions = [raw.texts(record[key], repr(key)) for key in self.texts]
    label = int(record[self.label]) if self.label else -1
    return Item(id_, image, label, sum(captions, ()))


@functools.lru_cache(maxsize=4)
def _records(directory: str, split: str) -> sources.Encoded:
  return sources.Encoded(epath.Path(directory), directory, split)


def recognise(source: str, options: Options) -> Layout:
  """The layout of `tfds:NAME[/CONFIG][:VERSION]`, or of a TFDS directory.

  A name that is not built yet is built, in ArrayRecord.

  Raises:
    UserError: it cannot be built or read, or lacks a field.
  """
  if source.startswith('tfds:') and not _is_built(source):
    _build(source, options)
  told = describe(source)
  fields = told.fields
  texts = conventions.listed(options.text) or (fields.text,)
  part = TfdsPart(
      os.fspath(places.directory(source)),
      '',
      0,
      0,
      options.image or fields.image,
      options.label or fields.label,
      tuple(filter(None, texts)),
      options.id or fields.id,
  )
  for name in (part.image, part.label, *part.texts, part.id):
    if name and name not in told.features:
      raise UserError(
          f'{source} has no feature {name!r}: it has {", ".join(told.features)}'
      )
  splits = {split: size for split, size in told.splits.items() if size}
  if not splits:
    raise UserError(f'{source} has no records')
  names = _records(part.directory, next(iter(splits))).names
  if part.label and part.label not in names:
    raise UserError(
        f'feature {part.label!r} of {source} is no class label: '
        f'{", ".join(names) or "none"} would be'
    )
  return _layout(source, part, splits, names.get(part.label, ()), options)


def _layout(
    source: str,
    part: TfdsPart,
    splits: dict[str, int],
    classes: tuple[str, ...],
    options: Options,
) -> Layout:
  parts = {
      split: [
          dataclasses.replace(
              part,
              split=split,
              start=start,
              size=min(options.records, size - start),
          )
          for start in range(0, size, options.records)
      ]
      for split, size in conventions.split_order(splits).items()
  }
  sizes = ', '.join(f'{split} {splits[split]:,}' for split in parts)
  return Layout(
      'tfds',
      parts,
      classes,
      bool(part.texts),
      f'TFDS {source}: records {sizes}; pictures from {part.image!r}; '
      f'{conventions.counted(len(classes), "label")}; '
      + (f'captions from {", ".join(part.texts)}' if part.texts
         else 'no captions'),
  )


def _is_built(source: str) -> bool:
  try:
    places.directory(source)
  except UserError:
    return False
  return True


def _build(source: str, options: Options):
  """Lets TFDS download and prepare; UserError in one line if it cannot."""
  import tensorflow_datasets as tfds  # seconds to import: only if needed

  if importlib.util.find_spec('tensorflow') is None:
    raise UserError(
        f'{source} is not built yet, and TFDS needs TensorFlow to build it: '
        'run launch/setup.sh tensorflow, then this command with '
        '.venv/tensorflow/bin/python'
    )
  manual = os.path.expanduser(options.manual_dir) or None
  if manual and not os.path.isdir(manual):
    raise UserError(f'--manual_dir={manual} is no directory')
  try:
    builder = tfds.builder(
        source.removeprefix('tfds:'),
        data_dir=str(places.tfds_home()),
        file_format='array_record',
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual)
    )
  except Exception as error:  # of a data set, a network, a disk
    raise UserError(
        f'TFDS cannot build {source} ({_line(error)}): is there a network, or '
        'do its files lie in --manual_dir?'
    ) from error


def _line(error: Exception) -> str:
  text = ' '.join(str(error).split())
  return f'{type(error).__name__}: {text[:300]}'
