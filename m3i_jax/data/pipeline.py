"""Batches of views and tokens; every row a function of (seed, position).

Row r of step t is position t * B + r of one endless order of the records, and
each crop and caption is drawn from (seed, position). So a run goes on from a
bare step number, and on any number of hosts it sees the same batches.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from PIL import Image

from m3i_jax.data.pictures import PictureError, open_picture, to_rgb
from m3i_jax.data.sources import Source
from m3i_jax.data.texts import Text
from m3i_jax.errors import UserError

MAX_REPLACEMENTS = 100  # unreadable records in a row before giving up
_CHUNK = 32  # rows that one thread makes at a time
_STREAMS = {'text': 0, 'a': 1, 'b': 2}  # independent draws of one position

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclasses.dataclass(frozen=True)
class Crop:
  """A random resized crop to `size` pixels a side, mirrored with odds `flip`.

  `scale` bounds its share of the picture's area, `ratio` width / height.
  """

  size: int
  scale: tuple[float, float] = (.08, 1.)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = .5


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a batch holds: the views by name ('a', 'b'), labels, text."""

  crops: Mapping[str, Crop]
  label: bool = False
  text: Text | None = None


def sample_box(
    rng: np.random.Generator, height: int, width: int, crop: Crop
) -> tuple[Box, bool]:
  """Draws a flip, then a box in the flipped frame.

  As torchvision's RandomResizedCrop: ten tries, then the largest central box
  whose ratio is within bounds.
  """
  flip, row, column = rng.random(3).tolist()
  low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
  for area, ratio in rng.random((10, 2)).tolist():
    area = crop.scale[0] + area * (crop.scale[1] - crop.scale[0])
    area *= height * width
    ratio = math.exp(low + ratio * (high - low))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      top = int(row * (height - h + 1))
      left = int(column * (width - w + 1))
      return (top, left, h, w), flip < crop.flip
  w = min(width, round(height * crop.ratio[1]))
  h = min(height, round(width / crop.ratio[0]))
  return ((height - h) // 2, (width - w) // 2, h, w), flip < crop.flip


def cut(
    image: Image.Image, box: Sequence[float], flip: bool, size: int
) -> np.ndarray:
  """The box of the picture, mirrored first if `flip`, as uint8 [S, S, 3].

  Only the crop is mirrored, not the picture: the pixels are the same.
  """
  top, left, height, width = box
  if flip:
    left = image.width - left - width
  view = image.resize(
      (size, size),
      Image.Resampling.BICUBIC,
      box=(left, top, left + width, top + height),
  )
  pixels = np.asarray(view)
  return pixels[:, ::-1] if flip else pixels


@functools.lru_cache(maxsize=8)
def record_order(length: int, seed: int) -> grain.MapDataset:
  """Record index by position: each epoch is a new permutation of `length`."""
  return grain.MapDataset.range(length).seed(seed).shuffle().repeat()


def sample(
    source: Source, seed: int, position: int, recipe: Recipe
) -> dict[str, Any]:
  """The row of a batch at a position of the global order.

  A record whose picture cannot be read gives way to the one after it.

  Raises:
    UserError: MAX_REPLACEMENTS records in a row cannot be read.
  """
  first = int(record_order(len(source), seed)[position])
  for offset in range(MAX_REPLACEMENTS):
    index = (first + offset) % len(source)
    record = source[index]
    try:
      row = _views(record['image'], seed, position, recipe.crops)
    except PictureError as error:
      _report(record['id'], str(error))
      continue
    if recipe.label:
      row['label'] = np.int32(record['label'])
    if recipe.text:
      row |= recipe.text.row(record, _rng(seed, position, 'text'))
    return row | {'record': np.int32(index), 'replaced': np.bool_(offset > 0)}
  raise UserError(
      f'{MAX_REPLACEMENTS} pictures in a row cannot be read, the last is '
      f'{record["id"]!r}: check the data set'
  )


def loader(
    source: Source,
    recipe: Recipe,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    stop_step: int,
    local: slice | np.ndarray = slice(None),
    threads: int | None = None,
    workers: int = 0,
) -> Iterator[dict[str, Any]]:
  """Batches of steps start_step .. stop_step - 1, made ahead of their use.

  Args:
    source: where the records come from.
    recipe: what a row holds.
    seed: of order, crops and captions.
    batch_size: rows of the global batch.
    start_step: first step to yield.
    stop_step: step to end before.
    local: the rows of the global batch that this host holds.
    threads: that make rows, in each process. If None, one for pictures already
      decoded, where the interpreter's lock makes more of them slower, and one a
      core (at most 16) for encoded ones.
    workers: processes besides this one, for hosts with many cores.
  """
  if threads is None:
    decoded = isinstance(source[0]['image'], np.ndarray)
    threads = 1 if decoded else min(os.cpu_count() or 1, 16)
  rows = np.arange(batch_size)[local]
  chunks = np.array_split(rows, -(-len(rows) // _CHUNK))

  def make(number: int) -> dict[str, Any]:
    step, part = divmod(number, len(chunks))
    start = step * batch_size
    return _combine(
        np.stack,
        [sample(source, seed, start + int(r), recipe) for r in chunks[part]],
    )

  first, last = start_step * len(chunks), stop_step * len(chunks)
  pieces = grain.MapDataset.range(first, last).map(make).to_iter_dataset(
      grain.ReadOptions(threads, prefetch_buffer_size=len(chunks) + threads)
  )
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's processes read absl flags
    pieces = pieces.mp_prefetch(grain.MultiprocessingOptions(workers))
  join = functools.partial(_combine, np.concatenate)
  return iter(pieces.batch(len(chunks), batch_fn=join))


def _views(
    encoded: bytes | np.ndarray,
    seed: int,
    position: int,
    crops: Mapping[str, Crop],
) -> dict[str, Any]:
  if isinstance(encoded, np.ndarray):
    image = Image.fromarray(encoded)
  else:
    image = open_picture(encoded)
  width, height = image.size
  drawn = {
      name: sample_box(_rng(seed, position, name), height, width, crop)
      for name, crop in crops.items()
  }
  shrink = 1
  if not isinstance(encoded, np.ndarray):
    shrink = _draft(image, [box for box, _ in drawn.values()], crops.values())
    image = to_rgb(image)
  views = {}
  for name, (box, flip) in drawn.items():
    region = np.array(box) / shrink
    if flip:  # shrinking rounds the width up; the excess is now on the left
      region[1] += image.width - width / shrink
    views[name] = {
        'image': cut(image, region.tolist(), flip, crops[name].size),
        'box': (box / np.array([height, width] * 2)).astype(np.float32),
        'flip': np.bool_(flip),
    }
  return views


def _draft(
    image: Image.Image, boxes: Iterable[Box], crops: Iterable[Crop]
) -> float:
  """Lets a JPEG decode at 1/2, 1/4 or 1/8 where no crop needs more.

  Every crop keeps twice the pixels a side of its view, the gap at which
  Pillow's own thumbnails can hardly be told from full decoding.

  Returns:
    How many times smaller the picture will be: 1, 2, 4 or 8.
  """
  width, height = image.size
  needed = max(
      2 * crop.size / min(box[2:])
      for box, crop in zip(boxes, crops, strict=True)
  )
  done = image.draft(
      None, (math.ceil(width * needed), math.ceil(height * needed))
  )
  return width / done[1][2] if done else 1


def _rng(seed: int, position: int, stream: str) -> np.random.Generator:
  return np.random.default_rng((seed, position, _STREAMS[stream]))


@functools.cache
def _report(record_id: str, reason: str):
  """Logs each unreadable record once."""
  logging.warning('picture %s is replaced: %s', record_id, reason)


def _combine(join: Any, parts: Sequence[Any]) -> Any:
  """Joins the leaves of equally nested dicts."""
  if isinstance(parts[0], dict):
    return {key: _combine(join, [p[key] for p in parts]) for key in parts[0]}
  return join(parts)
