"""Records by index from the bundled set, TFDS directories, or drawn shapes.

A record is a dict: `image` (encoded bytes, or uint8 [H, W, 3]), `label` (int,
-1 = none), `text` and `tags` (tuples of str), `id` (str), and every other
field of the data set under its own name. Nothing is ever downloaded.
"""

import contextlib
import dataclasses
import re
import resource
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

from m3i_jax.data import places, synthetic
from m3i_jax.data.pictures import PictureError, decode, open_picture
from m3i_jax.errors import UserError

_STRIDE = re.compile(r'(.+)\[::([1-9]\d*)\]')
MEMORY_BUDGET = 256 * 2**20  # bytes of decoded pictures worth keeping
_SMALLEST = 16  # pixels a side, of pictures that are worth it

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Fields:
  """Which feature of a data set plays which part; '' for none."""

  image: str = 'image'
  label: str = ''
  text: str = ''
  tags: str = ''
  id: str = ''


class Source(Protocol):
  """Records by index; `classes` names the labels, `names` every class field."""

  fields: Fields
  classes: tuple[str, ...]
  names: Mapping[str, tuple[str, ...]]

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> Record: ...


def open_source(
    name: str, split: str, fields: Fields, optional: Collection[str] = ()
) -> Source:
  """Opens a data set by name.

  Args:
    name: 'emoji' (bundled), 'synthetic[:LENGTH[:CLASSES]]',
      'tfds:NAME[/CONFIG][:VERSION]' (built earlier), or a directory that
      m3i_jax.prepare, or TFDS, has written.
    split: one split, a part such as 'train[:10%]', several joined by '+', or
      every n-th record of these, 'train[::10]'.
    fields: the features to read.
    optional: the parts that may be missing, and are then none.

  Raises:
    UserError: no such data set, split or field.
  """
  if stride := _STRIDE.fullmatch(split):
    whole = open_source(name, stride[1], fields, optional)
    return Thinned(whole, int(stride[2]))
  if name.split(':')[0] == 'synthetic':
    raw = open_synthetic(name, split)
    features = synthetic.FEATURES
  else:
    raw = Encoded(places.directory(name), name, split)
    features = raw.features
  absent = {
      part: ''
      for part in optional
      if getattr(fields, part) not in features
  }
  fields = dataclasses.replace(fields, **absent)
  _check(raw, features, name, fields)
  return _keep_if_small(_Named(raw, fields))


class MissingField(UserError):
  """The data set lacks the field of a record's `part`."""

  def __init__(self, part: str, told: str):
    super().__init__(told)
    self.part = part


def _check(raw: Any, features: Any, name: str, fields: Fields):
  for part, field in dataclasses.asdict(fields).items():
    if (field or part == 'image') and field not in features:
      raise MissingField(
          part,
          f'data set {name!r} has no field {field!r} ({part}): '
          f'it has {", ".join(sorted(features))}'
      )
  if fields.label and fields.label not in raw.names:
    raise UserError(
        f'field {fields.label!r} of data set {name!r} is no class label: '
        f'{", ".join(raw.names) or "no field"} would be'
    )


class Encoded:
  """A split of a TFDS directory under its own field names, pictures encoded.

  Attributes:
    features: TFDS's feature by field.
    names: the classes of each field of class labels.
  Raises:
    PictureError: a record that cannot be read, when it is asked for.
  """

  def __init__(self, directory: epath.Path, name: str, split: str):
    import tensorflow_datasets as tfds

    _open_many()
    builder = places.builder(directory)
    self.features = dict(builder.info.features)
    self.names = {
        field: tuple(feature.names)
        for field, feature in self.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    self._texts = [
        field
        for field, feature in self.features.items()
        if isinstance(getattr(feature, 'feature', feature), tfds.features.Text)
    ]
    encoded = {
        field: tfds.decode.SkipDecoding()
        for field, feature in self.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    try:
      self._records = builder.as_data_source(split, decoders=encoded)
      shards = builder.info.splits[split].filepaths
    except NotImplementedError as error:
      raise UserError(
          f'data set {name!r} at {directory} is not in a random-access format: '
          'build it again with --file_format=array_record'
      ) from error
    except (ValueError, KeyError) as error:
      raise UserError(
          f'cannot read split {split!r} of data set {name!r}: '
          f'it has {", ".join(builder.info.splits)}'
      ) from error
    if missing := [path for path in shards if not path.exists()]:
      raise UserError(
          f'{missing[0]} is missing, {len(missing):,} of {len(shards):,} files '
          f'of split {split!r}: prepare it again, or bring them back'
      )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, i: int) -> Record:
    try:
      record = self._records[i]
    except IndexError:
      raise
    except Exception as error:  # of a damaged shard it raises many kinds
      if 'Too many open files' in str(error):
        raise UserError(
          f'{len(self._records):,} records lie in more files than a process '
          'may open: raise `ulimit -n`'
        ) from error
      raise PictureError(f'unreadable record: {error}') from error
    for field in self._texts:
      texts = _strings(record[field])
      single = isinstance(record[field], bytes)
      record[field] = texts[0] if single else texts
    return record


def _open_many() -> None:
  """As many open files as the system lets a process have: one a shard."""
  most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
  with contextlib.suppress(ValueError, OSError):  # macOS has another limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Named:
  """Gives the fields of a data set the names that a record has."""

  def __init__(self, raw: Any, fields: Fields):
    self.names = raw.names
    self.classes = raw.names.get(fields.label, ())
    self.fields = fields
    self._raw = raw

  def __len__(self) -> int:
    return len(self._raw)

  def __getitem__(self, i: int) -> Record:
    raw, fields = self._raw[i], self.fields
    return raw | {
        'image': raw[fields.image],
        'label': int(raw[fields.label]) if fields.label else -1,
        'text': _strings(raw[fields.text]) if fields.text else (),
        'tags': _strings(raw[fields.tags]) if fields.tags else (),
        'id': str(raw[fields.id]) if fields.id else str(i),
    }


class Thinned:
  """Every `step`-th record: of all classes also where they are sorted."""

  def __init__(self, source: Source, step: int):
    self.names, self.classes = source.names, source.classes
    self.fields = source.fields
    self._source, self._step = source, step

  def __len__(self) -> int:
    return -(-len(self._source) // self._step)

  def __getitem__(self, i: int) -> Record:
    if not 0 <= i < len(self):
      raise IndexError(i)
    return self._source[i * self._step]


class _Kept:
  """A source whose small pictures are read and decoded once.

  Small is what all records together could have of MEMORY_BUDGET, so that which
  pictures are kept depends on nothing but the pictures.
  """

  def __init__(self, source: Source):
    self.names = source.names
    self.classes = source.classes
    self.fields = source.fields
    self._source = source
    self._pixels = MEMORY_BUDGET // (3 * max(len(source), 1))
    self._kept: dict[int, Record] = {}

  def __reduce__(self):  # a worker process fills its own memory
    return _Kept, (self._source,)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> Record:
    record = self._kept.get(i)
    if record is None:
      record = self._source[i]
      try:
        if _pixels(record['image']) <= self._pixels:
          record['image'] = decode(record['image'])
          record['image'].flags.writeable = False  # shared by all readers
          self._kept[i] = record
      except PictureError:
        pass  # whoever decodes it learns why it fails
    return record.copy()


def _pixels(image: bytes | np.ndarray) -> int:
  if isinstance(image, np.ndarray):
    return image.size // 3
  picture = open_picture(image)
  return picture.width * picture.height


def _keep_if_small(source: Source) -> Source:
  few = MEMORY_BUDGET // (3 * _SMALLEST**2)
  return _Kept(source) if len(source) <= few else source


def _strings(value: Any) -> tuple[str, ...]:
  if isinstance(value, bytes | str):
    value = (value,)
  return tuple(
      v.decode(errors='replace') if isinstance(v, bytes) else str(v)
      for v in value
  )


def open_synthetic(name: str, split: str) -> synthetic.Synthetic:
  """The drawn set that a name describes."""
  parts = name.split(':')[1:]
  try:
    length, classes = map(int, (*parts, *('1024', '24')[len(parts) :]))
  except ValueError as error:
    raise UserError(
        f'cannot read {name!r}: write synthetic[:LENGTH[:CLASSES]]'
    ) from error
  most = len(synthetic.NAMES)
  if length < 1 or not 1 <= classes <= most:
    raise UserError(f'{name!r} needs LENGTH >= 1 and CLASSES in 1..{most}')
  if split not in synthetic.SPLITS:
    raise UserError(
        f'cannot read split {split!r} of data set {name!r}: '
        f'it has {", ".join(synthetic.SPLITS)}'
    )
  return synthetic.Synthetic(length, classes, split)
