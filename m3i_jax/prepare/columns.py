"""Columns of a table, and how a row of it becomes an item."""

import base64
import binascii
import dataclasses
import functools
import os
import re
from typing import Any

from m3i_jax.data import pictures
from m3i_jax.prepare import conventions, labels, raw, rows
from m3i_jax.prepare.items import Item

_ENCODED = re.compile(
    r'(?:data:image/[\w.+-]+;base64,)?([A-Za-z0-9+/\s]+=*)'
)
OUTSIDE = 'path leads out of the folder'  # begins a reason
Values = dict[str, Any] | raw.Unusable  # of a row, by column


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a row becomes an item.

  Attributes:
    root: the folder that paths begin at.
    image, label, id, split: columns; '' for none.
    texts: columns of captions.
    known: the classes.
    absolute: paths may lead out of `root`.
    usual: the split of rows that name none.
  """

  root: str
  image: str
  label: str = ''
  texts: tuple[str, ...] = ()
  id: str = ''
  split: str = ''
  known: labels.Labels = dataclasses.field(
      default=labels.Labels(), repr=False
  )
  absolute: bool = False
  usual: str = 'train'

  @property
  def columns(self) -> tuple[str, ...]:
    named = (self.image, self.label, *self.texts, self.id, self.split)
    return tuple(dict.fromkeys(filter(None, named)))

  def split_of(self, values: Values) -> str:
    """The split of a row, under its usual name."""
    values = values.values if isinstance(values, rows.Torn) else values
    if not self.split or not isinstance(values, dict):
      return self.usual
    name = str(values.get(self.split) or '').strip()
    return conventions.SPLITS.get(name.lower(), name) or self.usual

  def item(self, values: Values, place: str) -> Item:
    """The item of a row at `place`; raises raw.Unusable."""
    if isinstance(values, raw.Unusable):
      raise values
    path, image = self.picture(values)
    if not image:
      image = raw.read_file(path)
    label = self.known.index(values.get(self.label)) if self.label else -1
    captions = [raw.texts(values.get(key), repr(key)) for key in self.texts]
    return Item(self.name(values, place), image, label, sum(captions, ()))

  def name(self, values: Values, place: str) -> str:
    """The id of a row: its own, or where it stands, and its path."""
    if not isinstance(values, dict):
      return place
    if self.id and values.get(self.id) not in (None, ''):
      return raw.whole(str(values[self.id]))
    value = values.get(self.image)
    path = value.get('path') if isinstance(value, dict) else value
    if isinstance(path, str) and 0 < len(path) < 1000 and not _decoded(path):
      return f'{place}:{raw.whole(path.strip())}'
    return place

  def picture(self, values: dict[str, Any]) -> tuple[str, bytes]:
    """A path, or bytes; raises raw.Unusable."""
    value = values.get(self.image)
    if isinstance(value, dict):
      data = value.get('bytes')
      value = value.get('path') if data is None else data
    if isinstance(value, str):
      data = _decoded(value)
      if not data:
        return self._path(value.strip()), b''
      value = data
    if value is None or value != value or value in ('', b''):
      raise raw.Unusable(f'no picture: {self.image!r} is empty')
    if not isinstance(value, bytes):
      kind = type(value).__name__
      raise raw.Unusable(f'no picture: {self.image!r} is of type {kind}')
    if len(value) > raw.PICTURE_BYTES:
      raise raw.too_large(repr(self.image), len(value), raw.PICTURE_BYTES)
    return '', value

  def _path(self, value: str) -> str:
    if not value:
      raise raw.Unusable(f'no picture: {self.image!r} is empty')
    shown = value[:200]
    if conventions.is_address(value):
      raise raw.Unusable(f'address of the network: {shown}')
    if re.search(r'[\x00-\x1f\ud800-\udfff]', value):
      raise raw.Unusable(f'unsafe path: {shown!r}')
    path = os.path.normpath(os.path.join(self.root, value))
    if not self.absolute and not self._inside(path):
      raise raw.Unusable(f'{OUTSIDE}: {shown} (--absolute lets it)')
    return path

  @functools.cached_property
  def _home(self) -> str:
    return os.path.realpath(self.root).rstrip(os.sep) + os.sep

  def _inside(self, path: str) -> bool:
    return os.path.realpath(path).startswith(self._home)


def _decoded(value: str) -> bytes:
  """A picture written as base64; b'' if it is something else."""
  match = None if '.' in value[:64] else _ENCODED.fullmatch(value.strip())
  if not match:
    return b''
  try:
    data = base64.b64decode(''.join(match[1].split()), validate=True)
  except (binascii.Error, ValueError):
    return b''
  return data if pictures.reader_of(data) else b''
