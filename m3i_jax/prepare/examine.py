"""Looks at each picture before it is stored: whole, how large, seen before?"""

import dataclasses
import hashlib
import io
import re

import numpy as np
from PIL import Image, ImageOps

from m3i_jax.data import pictures
from m3i_jax.prepare.items import Bad, Item, Options

# Stored as found. Others become PNG: few programs read them.
KEPT = ('JPEG', 'PNG', 'WEBP', 'GIF')
LONGEST = 10_000  # characters of a caption that are kept
_JPEG_SIDE = 65_500  # pixels that libjpeg writes at most
# A record's line in hashes/*.npy.
HASHES = np.dtype([('sha256', 'u1', 32), ('dhash', '<u8')])

_CONTROL = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')


@dataclasses.dataclass(frozen=True)
class Examined:
  """A record as it is stored.

  Attributes:
    item: with the bytes and the captions that are stored.
    format: of those bytes, such as 'JPEG'.
    height, width: pixels, upright.
    sha256: of those bytes.
    dhash: of the pixels, 64 bits; see `dhash`.
  """

  item: Item
  format: str
  height: int
  width: int
  sha256: bytes
  dhash: int


def examine(item: Item, options: Options) -> Examined | Bad:
  """Decodes a picture whole; a size that is too large is read, not decoded."""
  try:
    opened = pictures.open_picture(item.image)
    if opened.width * opened.height > options.max_pixels:
      size = f'{opened.width}x{opened.height}'
      return Bad(item.id, f'too many pixels: {size} > {options.max_pixels}')
    pixels = pictures.decode(item.image)
  except pictures.PictureError as error:
    return Bad(item.id, ' '.join(str(error).split()))
  stored, encoding = item.image, opened.format
  short = min(pixels.shape[:2])
  if options.short_side and short > options.short_side:
    small = _shrunk(item.image, pixels, options.short_side)
    stored, encoding = _small(small, options.quality)
    exact = encoding == 'PNG'
    pixels = (
      np.asarray(pictures.to_rgb(small)) if exact else pictures.decode(stored)
    )
  elif encoding not in KEPT:
    stored, encoding = _encoded(Image.fromarray(pixels), 'PNG'), 'PNG'
  height, width = pixels.shape[:2]
  captions = clean(item.captions)
  return Examined(
    dataclasses.replace(item, image=stored, captions=captions),
    encoding,
    height,
    width,
    hashlib.sha256(stored).digest(),
    dhash(pixels),
  )


def clean(captions: tuple[str, ...]) -> tuple[str, ...]:
  """Captions without control characters, outer spaces and empty ones."""
  cleaned = (_CONTROL.sub('', text).strip() for text in captions)
  return tuple(text[:LONGEST].rstrip() for text in cleaned if text)


def dhash(pixels: np.ndarray) -> int:
  """64 bits, equal or nearly so for pictures that look alike.

  Each bit says whether a cell of the 8 x 8 picture is darker than the next one
  on its right (N. Krawetz, "Kind of Like That", 2013).

  Args:
    pixels: uint8 [H, W, 3].
  """
  grey = Image.fromarray(pixels).convert('L')
  small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
  bits = np.packbits(small[:, :-1] < small[:, 1:])
  return int.from_bytes(bits.tobytes(), 'big')


def _shrunk(
  found: bytes, pixels: np.ndarray, short_side: int
) -> Image.Image:
  """The picture, upright, antialiased; RGBA if it is a PNG with alpha."""
  height, width = pixels.shape[:2]
  scale = short_side / min(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  image = pictures.open_picture(found)
  if image.format == 'PNG' and image.has_transparency_data:
    image = image.convert('RGBA')
    if pictures.orientation(image) > 1:
      image = ImageOps.exif_transpose(image)
  else:
    image = Image.fromarray(pixels)
  return image.resize(size, Image.Resampling.BICUBIC)


def _small(image: Image.Image, quality: int) -> tuple[bytes, str]:
  """Bytes and format of a picture that was shrunk.

  JPEG keeps the colours at full resolution (4:4:4): half of a small side would
  be seen where a crop of it is enlarged.
  """
  if image.mode == 'RGBA' or max(image.size) > _JPEG_SIDE:
    return _encoded(image, 'PNG'), 'PNG'
  return _encoded(image, 'JPEG', quality=quality, subsampling=0), 'JPEG'


def _encoded(image: Image.Image, encoding: str, **settings) -> bytes:
  file = io.BytesIO()
  image.save(file, encoding, **settings)
  return file.getvalue()
