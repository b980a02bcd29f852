"""Samples of webdataset tars: members that share a name up to its first dot."""

import dataclasses
import json
import posixpath
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from m3i_jax.prepare import archive, conventions, labels, raw
from m3i_jax.prepare.items import Bad, Item


@dataclasses.dataclass
class Sample:
  """A picture and what belongs to it.

  Attributes:
    key: the common name.
    fields: extension -> bytes; b'' of those that were not asked for.
    reason: why it is bad, '' if nothing is known against it.
  """

  key: str
  fields: dict[str, bytes] = dataclasses.field(default_factory=dict)
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Keys:
  """What to read.

  Attributes:
    image: an extension; '' for any that pictures have.
    texts: extensions of captions or keys in the JSON.
    label: 'cls' or a key in the JSON; '' for none.
  """

  image: str = ''
  texts: tuple[str, ...] = ()
  label: str = ''

  def limit(self, extension: str) -> int:
    """How many bytes of a member are read at most; 0 leaves it alone."""
    if extension == self.image if self.image else _is_image(extension):
      return raw.PICTURE_BYTES
    return self.small(extension)

  def small(self, extension: str) -> int:
    """As `limit`, of captions and labels alone."""
    known = (*conventions.CAPTIONS, 'cls', 'json', *self.texts, self.label)
    return raw.TEXT_BYTES if extension and extension in known else 0


def _is_image(extension: str) -> bool:
  return extension.rpartition('.')[2] in conventions.PICTURES


def read(file: BinaryIO, limit: Callable[[str], int]) -> Iterator[Sample | Bad]:
  """The samples of an open tar, and the members that belong to none.

  A tar that is damaged gives one Bad there, and what comes after it, if that
  can be found. Of pickles and other members that nobody asked for only the
  names are read.
  """
  sample, seen = Sample(''), set()
  try:
    for member in archive.survivors(file):
      if isinstance(member, archive.Broken):
        yield Bad('', f'tar {member}')
        continue
      if member.unsafe:
        name = raw.shown(member.name)
        yield Bad(name, f'unsafe member: {member.unsafe}')
        continue
      folder, base = posixpath.split(member.name)
      hidden = any(map(conventions.is_hidden, member.name.split('/')))
      if member.kind == 'folder' or hidden:
        continue
      stem, _, extension = base.partition('.')
      key = posixpath.join(folder, stem)
      if key != sample.key:
        if sample.key:
          yield sample
        sample = Sample(key)
        if key in seen:
          sample.reason = (
              'scattered sample: its members do not follow each other '
              '(tar --sort=name puts them together)'
          )
        seen.add(key)
      try:
        _add(sample, extension.lower(), member, file, limit)
      except archive.Broken:
        sample = Sample('')  # cut off in its midst
        raise
  except archive.Broken as error:
    if sample.key:
      yield sample
    yield Bad('', f'tar {error}')
    return
  if sample.key:
    yield sample


def _add(
    sample: Sample,
    extension: str,
    member: archive.Member,
    file: BinaryIO,
    limit: Callable[[str], int],
):
  if extension in sample.fields:
    sample.reason = f'member twice: {raw.shown(member.name)}'
    return
  most = limit(extension)
  sample.fields[extension] = b''
  if member.size > most > 0:
    name = raw.shown(member.name)
    sample.reason = str(raw.too_large(name, member.size, most))
  elif most:
    sample.fields[extension] = archive.read(file, member)


def item(sample: Sample, id_: str, keys: Keys, known: labels.Labels) -> Item:
  """The item of a sample.

  Raises:
    raw.Unusable: it has no picture, or something of it cannot be read.
  """
  if sample.reason:
    raise raw.Unusable(sample.reason)
  image = sample.fields[image_of(sample, keys)]
  found = Fields(sample, id_)
  label = known.index(found.label(keys.label)) if keys.label else -1
  return Item(id_, image, label, found.captions(keys.texts))


def image_of(sample: Sample, keys: Keys) -> str:
  """The extension of its picture; raises raw.Unusable if it has none."""
  if keys.image and keys.image in sample.fields:
    return keys.image
  if not keys.image:
    for extension in conventions.PICTURES:
      if extension in sample.fields:
        return extension
    for extension in sample.fields:
      if _is_image(extension):
        return extension
  there = ', '.join(sorted(sample.fields)) or 'nothing'
  raise raw.Unusable(f'no picture: it has {there[:200]}')


class Fields:
  """Captions and label of a sample; its JSON is parsed if it is needed."""

  def __init__(self, sample: Sample, id_: str):
    self._fields = sample.fields
    self._id = id_
    self._json: dict[str, Any] | None = None

  @property
  def json(self) -> dict[str, Any]:
    """The keys of the JSON, {} without one; raises raw.Unusable."""
    if self._json is None:
      self._json = parse(self._fields.get('json', b'{}'), self._id)
    return self._json

  def label(self, key: str) -> Any:
    if key in self._fields:
      return ' '.join(raw.lines(self._fields[key], f'{self._id}.{key}'))
    return None if key == 'cls' else self.json.get(key)

  def captions(self, keys: tuple[str, ...]) -> tuple[str, ...]:
    found = ()
    for key in keys:
      if key in self._fields:
        found += raw.lines(self._fields[key], f'{self._id}.{key}')
      else:
        found += raw.texts(self.json.get(key), f'{key!r}')
    return found


def parse(data: bytes, name: str) -> dict[str, Any]:
  """A JSON object; raises raw.Unusable if it is none."""
  try:
    value = json.loads(data.decode('utf-8-sig'))
  except (ValueError, RecursionError) as error:
    raise raw.Unusable(f'JSON cannot be read: {name} ({error})') from error
  if not isinstance(value, dict):
    raise raw.Unusable(f'JSON is no object: {name}')
  return value
