"""From encoded bytes to RGB pixels, with the size known before any decoding."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # the size at which Pillow speaks of an attack


class PictureError(ValueError):
  """A picture that cannot be read: broken, cut short, too large."""


def decode(image: bytes | np.ndarray) -> np.ndarray:
  """The picture as uint8 [H, W, 3]; see `to_rgb`. Arrays pass through.

  Raises:
    PictureError: the bytes are no whole picture, or more than MAX_PIXELS.
  """
  if isinstance(image, np.ndarray):
    return image
  return np.asarray(to_rgb(open_picture(image)))


def open_picture(data: bytes) -> Image.Image:
  """Reads the header only, so that the size is known before any decoding."""
  try:
    image = Image.open(io.BytesIO(data))
  except UnidentifiedImageError as error:
    raise PictureError('no picture of a known format') from error
  except Exception as error:  # whatever broken bytes make a codec raise
    raise PictureError(f'unreadable: {error}') from error
  if image.width * image.height > MAX_PIXELS:
    raise PictureError(f'{image.width}x{image.height} pixels are too many')
  return image


def to_rgb(image: Image.Image) -> Image.Image:
  """Decodes to RGB: alpha goes on white, 16 bits to 8; EXIF turns are ignored.

  Raises:
    PictureError: the file is broken or cut short.
  """
  try:
    image.load()
    if image.mode.startswith('I'):  # 16-bit grey, which convert() would clip
      image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
      image = image.convert('RGBA')
      white = Image.new('RGBA', image.size, 'white')
      image = Image.alpha_composite(white, image)
    return image.convert('RGB')
  except Exception as error:  # as above
    raise PictureError(f'unreadable: {error}') from error
