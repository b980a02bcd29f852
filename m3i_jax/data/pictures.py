"""From encoded bytes to upright RGB pixels; nothing large is ever decoded.

`Image.open` is not used: it warns by a limit that anyone may set, and knows
formats that start programs. ICC profiles are ignored. Damage inside the data of
a JPEG cannot be told from a picture; a PNG's missing rows are black.
"""

import io
import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import (
  AvifImagePlugin,
  BmpImagePlugin,
  GifImagePlugin,
  Image,
  Jpeg2KImagePlugin,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

MAX_PIXELS = 178_956_970  # the size at which Pillow speaks of an attack
MAX_SIDE = 1_000_000  # pixels; of longer lines Pillow may run out of memory

# Where a format's mark is, the mark, and who reads it. JPEGs of several
# pictures (MPO) are read as their first one.
_READERS = (
  (0, b'\xff\xd8\xff', JpegImagePlugin.JpegImageFile),
  (0, b'\x89PNG', PngImagePlugin.PngImageFile),
  (8, b'WEBP', WebPImagePlugin.WebPImageFile),
  (0, b'GIF8', GifImagePlugin.GifImageFile),
  (0, b'BM', BmpImagePlugin.BmpImageFile),
  (0, b'II', TiffImagePlugin.TiffImageFile),
  (0, b'MM', TiffImagePlugin.TiffImageFile),
  (4, b'ftypavi', AvifImagePlugin.AvifImageFile),
  (4, b'jP  ', Jpeg2KImagePlugin.Jpeg2KImageFile),
  (0, b'\xff\x4f\xff\x51', Jpeg2KImagePlugin.Jpeg2KImageFile),
  # Plain ones (P1 to P3) are read by Python, in minutes if somebody means it.
  *((0, b'P%d' % n, PpmImagePlugin.PpmImageFile) for n in range(4, 7)),
)
# By EXIF orientation: what turns the stored picture upright.
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
  """A picture that cannot be read; what stands before ':' is the kind."""


def decode(image: bytes | np.ndarray) -> np.ndarray:
  """The picture as uint8 [H, W, 3]; see `to_rgb`. Arrays pass through.

  Raises:
    PictureError: the bytes are no whole picture, or too large a one.
  """
  if isinstance(image, np.ndarray):
    return image
  return np.asarray(to_rgb(open_picture(image)))


def reader_of(data: bytes) -> Callable[[BinaryIO], Image.Image] | None:
  """What reads a file that begins with these bytes; None if nothing does."""
  found = (r for at, mark, r in _READERS if data.startswith(mark, at))
  return next(found, None)


def open_picture(data: bytes) -> Image.Image:
  """Reads the header only, so that the size is known before any decoding.

  JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 and PNM, told by their first
  bytes whatever the file is called.

  Raises:
    PictureError: another format, a broken header, more than MAX_PIXELS, or
      more than MAX_SIDE in a line.
  """
  reader = reader_of(data)
  if not reader:
    start = bytes(data[:12])
    raise PictureError(f'no picture of a known format: begins with {start!r}')
  try:
    image = reader(io.BytesIO(data))
  except Image.DecompressionBombError as error:
    raise PictureError(f'too large: {error}') from error
  except Exception as error:  # whatever broken bytes make a codec raise
    raise PictureError(f'unreadable: {_said(error)}') from error
  if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
    raise PictureError(f'too large: {image.width}x{image.height} pixels')
  return image


def _said(error: Exception) -> str:
  return str(error) or type(error).__name__  # MemoryError says nothing


def to_rgb(image: Image.Image) -> Image.Image:
  """Decodes to upright RGB, the first frame only.

  Alpha goes on white, 16 bits become their upper 8. CMYK is taken as Adobe
  writes it in JPEG, and mixed as (1 - ink)(1 - black).

  Raises:
    PictureError: broken, cut short, or of pixels whose range is not known.
  """
  try:
    image.load()
    turn = _TURNS.get(orientation(image))
    if image.mode.startswith('I'):
      image = _upper_byte(image)
    if image.mode == 'F':
      raise ValueError('floating-point pixels have no known range')
    if image.has_transparency_data:
      image = image.convert('RGBA')
      white = Image.new('RGBA', image.size, 'white')
      image = Image.alpha_composite(white, image)
    if image.mode != 'RGB':  # or convert() would copy
      image = image.convert('RGB')
    return image if turn is None else image.transpose(turn)
  except Exception as error:  # as above
    raise PictureError(f'unreadable: {_said(error)}') from error


def upright_size(image: Image.Image) -> tuple[int, int]:
  """(width, height) of what `to_rgb` will give.

  Raises:
    PictureError: as `to_rgb`; a PNG may say at its end how it is turned.
  """
  if image.format == 'PNG':
    try:
      image.load()
    except Exception as error:  # as above
      raise PictureError(f'unreadable: {_said(error)}') from error
  width, height = image.size
  return (height, width) if orientation(image) > 4 else (width, height)


def far_sides(image: Image.Image) -> tuple[bool, bool]:
  """Whether the stored picture ends at the left, and at the top, of what is
  seen, instead of at the right and the bottom."""
  turn = orientation(image)
  return turn in (2, 3, 6, 7), turn in (3, 4, 7, 8)


def orientation(image: Image.Image) -> int:
  """EXIF orientation, 1 to 8; 1 where none can be read. TIFFs turn themselves.

  Own code, as Pillow's would load a PNG, and warn of broken EXIF data.
  """
  exif = image.info.get('exif', b'').removeprefix(b'Exif\0\0')
  try:
    order = {b'II': '<', b'MM': '>'}[exif[:2]]
    (start,) = struct.unpack_from(order + 'I', exif, 4)
    (entries,) = struct.unpack_from(order + 'H', exif, start)
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
      tag, kind, count, value = struct.unpack_from(order + 'HHIH', exif, entry)
      if (tag, kind, count) == (0x112, 3, 1) and 1 <= value <= 8:
        return value
  except (KeyError, struct.error):
    pass
  return 1


def _upper_byte(image: Image.Image) -> Image.Image:
  """Grey of 16 bits, which convert() would clip, as grey of 8."""
  values = np.asarray(image)
  if values.min() < 0 or values.max() > 0xFFFF:
    raise ValueError('pixels of more than 16 bits have no known range')
  return Image.fromarray((values >> 8).astype(np.uint8))
