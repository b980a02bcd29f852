"""The arrays that evaluators compare: features, labels, text embeddings."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image

from m3i_jax.data.sources import PictureError, decode
from m3i_jax.errors import UserError

Splits = str | tuple[str, ...]
# Splits whose small pictures fit are decoded once, not at every evaluation.
_KEEP_BYTES = 2**28


class Source(Protocol):
  """Records by index: mappings with 'image', 'text' and fields to score."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Features(Protocol):
  """What an evaluator sees of a model and of the data."""

  has_text: bool

  def images(self, split: str) -> np.ndarray:
    """Features of every picture of a split, in order: float32 [n, D]."""

  def labels(self, split: str, field: str) -> np.ndarray:
    """A field of every record of a split, in order: int or str [n]."""

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    """Embeddings in the space of `images`: float32 [m, D]."""


class Records:
  """Opens splits once and hands out their small pictures and their labels."""

  def __init__(self, open_split: Callable[[str], Source], size: int):
    self.size = size
    self._open = open_split
    self._sources: dict[str, Source] = {}
    self._labels: dict[tuple[str, str], np.ndarray] = {}
    self._pictures: dict[str, np.ndarray] = {}

  def source(self, split: str) -> Source:
    if split not in self._sources:
      self._sources[split] = self._open(split)
    return self._sources[split]

  def labels(self, split: str, field: str) -> np.ndarray:
    """A field of every record [n]; 'caption' is a record's first text."""
    if (split, field) not in self._labels:
      source = self.source(split)
      self._labels[split, field] = np.array(
        [field_of(source[i], field, split) for i in range(len(source))]
      )
    return self._labels[split, field]

  def batches(self, split: str, batch_size: int) -> Iterator[np.ndarray]:
    """Every picture once, in order: uint8 [<= batch_size, S, S, 3]."""
    total = len(self.source(split))
    if split not in self._pictures:
      if total * self.size**2 * 3 <= _KEEP_BYTES:
        self._pictures[split] = self._read(split, range(total))
    for start in range(0, total, batch_size):
      rows = range(start, min(start + batch_size, total))
      if split in self._pictures:
        yield self._pictures[split][rows.start : rows.stop]
      else:
        yield self._read(split, rows)

  def _read(self, split: str, rows: range) -> np.ndarray:
    source = self.source(split)
    pictures = np.empty((len(rows), self.size, self.size, 3), np.uint8)
    for at, row in enumerate(rows):
      try:
        pictures[at] = square(decode(source[row]['image']), self.size)
      except PictureError as error:
        # Still counted: it is black, and its label a near certain miss.
        logging.warning('evaluation: %s record %d: %s', split, row, error)
        pictures[at] = 0
    return pictures


class EncodedFeatures:
  """Features of an encoder.

  encode_image: uint8 [batch_size, S, S, 3] -> [batch_size, D]; a jitted
    function: it only ever sees full batches, the last one padded.
  encode_text: a list of batch_size texts -> [batch_size, D], or None.
  """

  def __init__(
      self,
      encode_image: Callable[[np.ndarray], Any],
      encode_text: Callable[[list[str]], Any] | None,
      open_split: Callable[[str], Source],
      size: int,
      batch_size: int,
  ):
    self._encode_image = encode_image
    self._encode_text = encode_text
    self._records = Records(open_split, size)
    self._batch_size = batch_size
    self._features: dict[str, np.ndarray] = {}

  def with_encoders(
      self,
      encode_image: Callable[[np.ndarray], Any],
      encode_text: Callable[[list[str]], Any] | None,
  ) -> 'EncodedFeatures':
    """Features of other weights that share the pictures already decoded."""
    other = EncodedFeatures(
      encode_image, encode_text, self._records.source, self._records.size,
      self._batch_size,
    )
    other._records = self._records
    return other

  @property
  def has_text(self) -> bool:
    return self._encode_text is not None

  def images(self, split: str) -> np.ndarray:
    if split not in self._features:
      batches = self._records.batches(split, self._batch_size)
      self._features[split] = np.concatenate(
        [self._padded(batch) for batch in batches]
      )
    return self._features[split]

  def labels(self, split: str, field: str) -> np.ndarray:
    return self._records.labels(split, field)

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    if self._encode_text is None:
      raise ValueError('These features have no text encoder: see has_text.')
    step = self._batch_size
    found = []
    for start in range(0, len(texts), step):
      part = list(texts[start : start + step])
      out = self._encode_text(part + [''] * (step - len(part)))
      found.append(np.asarray(jax.device_get(out), np.float32)[: len(part)])
    return np.concatenate(found)

  def _padded(self, batch: np.ndarray) -> np.ndarray:
    short = self._batch_size - len(batch)
    full = np.pad(batch, ((0, short), (0, 0), (0, 0), (0, 0)))
    out = jax.device_get(self._encode_image(full))
    return np.asarray(out, np.float32)[: len(batch)]


class PixelFeatures:
  """Raw pixels less their mean, per picture: the row that learned nothing."""

  has_text = False

  def __init__(self, open_split: Callable[[str], Source], side: int = 16):
    self._records = Records(open_split, side)

  def images(self, split: str) -> np.ndarray:
    parts = [
      batch.reshape(len(batch), -1).astype(np.float32) / 255
      for batch in self._records.batches(split, 1024)
    ]
    pixels = np.concatenate(parts)
    return pixels - pixels.mean(axis=1, keepdims=True)

  def labels(self, split: str, field: str) -> np.ndarray:
    return self._records.labels(split, field)

  def texts(self, texts: Sequence[str]) -> np.ndarray:
    raise ValueError('Pixels have no text: see has_text.')


def square(picture: np.ndarray, size: int) -> np.ndarray:
  """The central square of uint8 [h, w, 3], resized by Pillow's bicubic."""
  height, width = picture.shape[:2]
  side = min(height, width)
  left, top = (width - side) / 2, (height - side) / 2
  box = (left, top, left + side, top + side)
  image = Image.fromarray(picture)
  return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box))


def field_of(record: Mapping[str, Any], field: str, split: str) -> Any:
  """A field of a record; 'caption' is its first text."""
  if field == 'caption' and 'caption' not in record:
    return record['text'][0] if record.get('text') else ''
  if field not in record:
    have = ', '.join(sorted(set(record) - {'image'}))
    raise UserError(
      f'Evaluation: records of split {split!r} have no field {field!r}; '
      f'choose one of: {have}.'
    )
  return record[field]


def images_of(features: Features, splits: Splits) -> np.ndarray:
  """Features of one split or of several, one after the other."""
  names = (splits,) if isinstance(splits, str) else splits
  return np.concatenate([features.images(name) for name in names])


def labels_of(features: Features, splits: Splits, field: str) -> np.ndarray:
  """Labels of one split or of several, in the order of `images_of`."""
  names = (splits,) if isinstance(splits, str) else splits
  return np.concatenate([features.labels(name, field) for name in names])


def each(splits: Splits, *fields: str) -> list[tuple[str, str]]:
  """(split, field) for every split and field."""
  names = (splits,) if isinstance(splits, str) else splits
  return [(name, field) for name in names for field in fields]


def words(splits: Splits) -> str:
  """'train' or 'vendor + vendor_heldout'."""
  return splits if isinstance(splits, str) else ' + '.join(splits)
