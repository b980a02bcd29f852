"""Random resized crops: where they are, and their pixels."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from m3i_jax.data.pictures import (
    far_sides,
    open_picture,
    to_rgb,
    upright_size,
)

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


def cut_all(
    encoded: bytes | np.ndarray,
    crops: Mapping[str, Crop],
    rng: Callable[[str], np.random.Generator],
) -> dict[str, dict[str, Any]]:
  """Each crop of a picture: {'image', 'box', 'flip'} by its name.

  Args:
    encoded: a file's bytes, which are shown upright, or uint8 [H, W, 3].
    crops: by name.
    rng: where the crop of a name is drawn from.

  Raises:
    PictureError: the picture cannot be read.
  """
  if isinstance(encoded, np.ndarray):
    image = Image.fromarray(encoded)
  else:
    image = open_picture(encoded)
  width, height = upright_size(image)
  drawn = {
      name: sample_box(rng(name), height, width, crop)
      for name, crop in crops.items()
  }
  shrink, (far_x, far_y) = 1, far_sides(image)
  if not isinstance(encoded, np.ndarray):
    shrink = _draft(image, [box for box, _ in drawn.values()], crops.values())
    image = to_rgb(image)
  # Shrinking rounds sides up. The excess is where the stored picture ends:
  # after a turn or a flip that may be on the left, or at the top.
  excess_x = image.width - width / shrink
  excess_y = image.height - height / shrink
  made = {}
  for name, (box, flip) in drawn.items():
    region = np.array(box) / shrink
    region[0] += far_y * excess_y
    region[1] += (far_x ^ flip) * excess_x
    made[name] = {
        'image': cut(image, region.tolist(), flip, crops[name].size),
        'box': (box / np.array([height, width] * 2)).astype(np.float32),
        'flip': np.bool_(flip),
    }
  return made


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
