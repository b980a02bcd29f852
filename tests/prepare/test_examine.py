"""Bad pictures are named, others are kept, or written anew as asked."""

import hashlib
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from m3i_jax.data import pictures
from m3i_jax.prepare import examine
from m3i_jax.prepare.items import Bad, Item, Options
from tests.data import bad_pictures
from tests.prepare import parts


def smooth(width: int, height: int) -> Image.Image:
  """A picture that JPEG keeps within a few levels."""
  y, x = np.mgrid[:height, :width]
  waves = [np.sin(x / 37 + k) + np.cos(y / (41 + k)) for k in range(3)]
  pixels = np.stack(waves, -1) * 60 + 128
  return Image.fromarray(pixels.astype(np.uint8))


def stored(image: Image.Image, encoding: str, **save) -> bytes:
  file = io.BytesIO()
  image.save(file, encoding, **save)
  return file.getvalue()


@pytest.mark.parametrize('encoding', ['JPEG', 'PNG', 'WEBP', 'GIF'])
def test_bytes_are_kept_as_they_were_found(encoding):
  data = parts.picture(0, encoding, (30, 20)) + b'garbage'
  found = examine.examine(Item('a', data, 3, ('x',)), Options(short_side=20))
  assert found.item == Item('a', data, 3, ('x',))
  assert found.format == encoding
  assert (found.height, found.width) == (20, 30)
  assert found.sha256 == hashlib.sha256(data).digest()


@pytest.mark.parametrize('encoding', ['BMP', 'TIFF', 'PPM'])
def test_a_rare_format_becomes_png_with_the_same_pixels(encoding):
  data = parts.picture(1, encoding)
  found = examine.examine(Item('a', data), Options())
  assert found.format == 'PNG'
  assert Image.open(io.BytesIO(found.item.image)).format == 'PNG'
  drawn = pictures.decode(parts.picture(1, 'PNG'))
  np.testing.assert_array_equal(pictures.decode(found.item.image), drawn)


def test_a_size_is_refused_before_anything_is_decoded(monkeypatch):
  data = parts.picture(0, size=(40, 25))
  assert not isinstance(
    examine.examine(Item('a', data), Options(max_pixels=1000)), Bad
  )
  monkeypatch.setattr(pictures, 'decode', None)  # would be called
  found = examine.examine(Item('a', data), Options(max_pixels=999))
  assert found == Bad('a', 'too many pixels: 40x25 > 999')


@pytest.mark.parametrize('data', [b'', b'<svg/>', parts.picture(0)[:99]])
def test_what_is_no_picture_is_bad_with_one_line(data):
  found = examine.examine(Item('a', data), Options())
  assert isinstance(found, Bad)
  assert found.id == 'a'
  assert found.reason and '\n' not in found.reason


def test_a_large_picture_is_shrunk_with_antialiasing():
  image = smooth(400, 300)
  given = Item('a', stored(image, 'PNG'))
  found = examine.examine(given, Options(short_side=64))
  assert (found.format, found.height, found.width) == ('JPEG', 64, 85)
  small = pictures.decode(found.item.image)
  expected = image.resize((85, 64), Image.Resampling.BICUBIC)
  # JPEG at quality 95 of a smooth picture; a resize without antialiasing of
  # one of lines would be far off, which the next test has.
  np.testing.assert_allclose(small, np.asarray(expected), atol=6)
  layers = Image.open(io.BytesIO(found.item.image)).layer
  assert [layer[1:3] for layer in layers] == [(1, 1)] * 3  # 4:4:4


def test_stripes_become_grey():
  stripes = np.zeros((256, 256, 3), np.uint8)
  stripes[:, ::2] = 255
  given = Item('a', stored(Image.fromarray(stripes), 'PNG'))
  found = examine.examine(given, Options(short_side=64))
  inner = pictures.decode(found.item.image)[4:-4, 4:-4]
  assert np.abs(inner.astype(int) - 128).max() <= 4


def test_what_is_too_long_for_jpeg_is_png():
  image = Image.new('RGB', (90_000, 9), (10, 200, 30))
  given = Item('a', stored(image, 'PNG'))
  found = examine.examine(given, Options(short_side=8))
  assert (found.format, found.height, found.width) == ('PNG', 8, 80_000)
  pixels = pictures.decode(found.item.image)
  assert pixels.shape == (8, 80_000, 3)
  assert (pixels == (10, 200, 30)).all()
  assert found.dhash == examine.dhash(pixels)


def turned() -> bytes:
  """EXIF data: to be turned to the right."""
  exif = Image.Exif()
  exif[0x112] = 6
  return exif.tobytes()


def test_alpha_stays_when_a_png_is_shrunk_and_it_is_upright():
  image = smooth(100, 80).convert('RGBA')
  alpha = np.full((80, 100), 77, np.uint8)
  alpha[:, :50] = 0
  image.putalpha(Image.fromarray(alpha))
  given = Item('a', stored(image, 'PNG', exif=turned()))
  found = examine.examine(given, Options(short_side=40))
  small = Image.open(io.BytesIO(found.item.image))
  assert (small.format, small.mode, small.size) == ('PNG', 'RGBA', (40, 50))
  assert 0x112 not in small.getexif()
  assert found.dhash == examine.dhash(pictures.decode(found.item.image))
  shown = np.asarray(small)[..., 3]
  assert not shown[:23].any()
  assert (shown[27:] == 77).all()


def test_what_is_shrunk_is_stored_upright():
  given = Item('a', stored(smooth(400, 300), 'JPEG', exif=turned()))
  found = examine.examine(given, Options(short_side=30))
  assert (found.height, found.width) == (40, 30)
  assert 0x112 not in Image.open(io.BytesIO(found.item.image)).getexif()


BROKEN = bad_pictures.broken()


@pytest.mark.parametrize('name', BROKEN)
def test_every_broken_picture_is_bad_with_its_reason(name):
  data, reason = BROKEN[name]
  with warnings.catch_warnings(action='ignore'):  # Pillow's, of some
    found = examine.examine(Item(name, data), Options(short_side=16))
  assert isinstance(found, Bad)
  assert found.reason.startswith(reason)


def test_captions_are_cleaned():
  given = ('  a\x00 dog\n', '', ' \t', 'é\x1b[31m', 'x' * 20_000, '\ud800y')
  assert examine.clean(given) == ('a dog', 'é[31m', 'x' * 10_000, 'y')


def test_the_difference_hash_by_its_definition():
  # Cells of 8 x 8 pixels in 8 rows and 9 columns, of known grey.
  grey = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
  pixels = np.repeat(np.repeat(grey, 8, 0), 8, 1)[..., None].repeat(3, -1)
  bits = ''.join(
    '01'[int(grey[row, column] < grey[row, column + 1])]
    for row in range(8)
    for column in range(8)
  )
  assert examine.dhash(pixels) == int(bits, 2)


def test_the_difference_hash_survives_size_and_quality():
  image = smooth(400, 300)
  small = stored(image.resize((200, 150)), 'JPEG', quality=60)
  one, other = (
    examine.dhash(pixels)
    for pixels in (np.asarray(image), pictures.decode(small))
  )
  assert (one ^ other).bit_count() <= 4
  flipped = examine.dhash(np.asarray(image)[:, ::-1])
  assert (one ^ flipped).bit_count() > 20
