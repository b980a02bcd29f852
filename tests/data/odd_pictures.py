"""Good pictures of rare kinds, and the pixels that are to come of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_rng = np.random.default_rng(0)
NOISE = _rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
# Smooth, so that JPEG hardly changes it, and different in every corner.
SMOOTH = np.stack(
  np.broadcast_arrays(
    np.linspace(20, 230, 56), np.linspace(40, 200, 40)[:, None], 90.0
  ),
  -1,
).astype(np.uint8)
INK = (200, 40, 90, 60)  # cyan, magenta, yellow, black
INK_RGB = np.array([(255 - i) * (255 - INK[3]) / 255 for i in INK[:3]])
# By EXIF orientation: where the first row and the first column are seen.
SIDES = {
  1: ('top', 'left'),
  2: ('top', 'right'),
  3: ('bottom', 'right'),
  4: ('bottom', 'left'),
  5: ('left', 'top'),
  6: ('right', 'top'),
  7: ('right', 'bottom'),
  8: ('left', 'bottom'),
}


def encoded(image, kind, **how) -> bytes:
  """A picture, array or Pillow's, as a file's bytes."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **how)
  return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
  checked = kind + data
  return struct.pack('>I', len(data)) + checked + struct.pack(
    '>I', zlib.crc32(checked)
  )


def png(width, height, bits, colour, rows: bytes, *chunks: bytes) -> bytes:
  """A PNG by hand; `rows` as they are before compression."""
  header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
  return b''.join((
    b'\x89PNG\r\n\x1a\n',
    png_chunk(b'IHDR', header),
    *chunks,
    png_chunk(b'IDAT', zlib.compress(rows)),
    png_chunk(b'IEND', b''),
  ))


def png16(channels: np.ndarray, colour: int) -> bytes:
  """uint16 [H, W, C] as a PNG."""
  height, width, _ = channels.shape
  rows = channels.astype('>u2').reshape(height, -1).tobytes()
  step = len(rows) // height
  lines = [b'\0' + rows[i : i + step] for i in range(0, len(rows), step)]
  return png(width, height, 16, colour, b''.join(lines))


def exif(orientation: int, order: str = '<') -> bytes:
  """EXIF data that says nothing else."""
  mark = b'II*\0' if order == '<' else b'MM\0*'
  entry = struct.pack(order + 'HHIHH', 0x112, 3, 1, orientation, 0)
  return (
    b'Exif\0\0'
    + mark
    + struct.pack(order + 'IH', 8, 1)
    + entry
    + struct.pack(order + 'I', 0)
  )


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """What is stored so that an EXIF orientation shows `pixels`."""
  first_row, first_column = SIDES[orientation]
  if first_row in ('left', 'right'):
    pixels = pixels.swapaxes(0, 1)
  if first_row in ('right', 'bottom'):
    pixels = pixels[::-1]
  if first_column in ('right', 'bottom'):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def odd() -> dict[str, tuple[bytes, np.ndarray, int]]:
  """Good pictures of rare kinds: bytes, RGB, largest difference allowed."""
  return _jpegs() | _pngs() | _clear() | _turns() | _others()


def _jpegs() -> dict:
  plain = encoded(SMOOTH, 'JPEG', quality=95)
  grey = SMOOTH[..., 0]
  cmyk = encoded(Image.new('CMYK', (56, 40), INK), 'JPEG', quality=95)
  ink = np.broadcast_to(INK_RGB, SMOOTH.shape)
  icc = b'\0' * 36 + b'acsp' + b'\0' * 88  # a header that says nothing
  first = Image.fromarray(SMOOTH)
  several = encoded(
    first,
    'MPO',
    save_all=True,
    append_images=[Image.fromarray(NOISE)],
    quality=95,
  )
  return {
    'jpeg': (plain, SMOOTH, 6),
    'progressive jpeg': (
      encoded(SMOOTH, 'JPEG', quality=95, progressive=True), SMOOTH, 6
    ),
    'grey jpeg': (
      encoded(grey, 'JPEG', quality=95), np.stack([grey] * 3, -1), 3
    ),
    'jpeg with garbage after its end': (plain + NOISE.tobytes(), SMOOTH, 6),
    'jpeg with a colour profile': (
      encoded(SMOOTH, 'JPEG', quality=95, icc_profile=icc), SMOOTH, 6
    ),
    'jpeg of several pictures': (several, SMOOTH, 6),
    'cmyk jpeg': (cmyk, ink, 3),
    'cmyk jpeg without a mark of Adobe': (_without(cmyk, 0xEE), ink, 3),
    'ycck jpeg': (_ycck(), ink, 4),
    'jpeg with broken exif': (
      encoded(SMOOTH, 'JPEG', quality=95, exif=b'Exif\0\0II*\0\xff\xff'),
      SMOOTH,
      6,
    ),
  }


def _pngs() -> dict:
  grey = np.repeat(NOISE[..., :1], 3, 2)
  wide = NOISE.astype(np.uint16) * 256 + NOISE[::-1]  # upper bytes are NOISE
  black = np.where(NOISE[..., :1] > 128, 255, 0)
  palette, entries = _palette()
  frames = dict(save_all=True, append_images=[Image.fromarray(SMOOTH)])
  plain = encoded(NOISE, 'PNG')
  return {
    'png': (plain, NOISE, 0),
    'png with too few rows': (
      png(3, 4, 8, 0, b'\0\7\7\7' * 2),
      np.repeat([7, 7, 0, 0], 9).reshape(4, 3, 3),
      0,
    ),
    'png without its end': (plain[:-12], NOISE, 0),
    'png with garbage after its end': (plain + b'more' * 99, NOISE, 0),
    '1-bit png': (
      encoded(Image.fromarray(black[..., 0] > 0), 'PNG'),
      np.repeat(black, 3, 2),
      0,
    ),
    'palette png': (encoded(palette, 'PNG'), entries, 0),
    '16-bit grey png': (png16(wide[..., :1], 0), grey, 0),
    '16-bit png': (png16(wide, 2), NOISE, 0),
    'animated png': (
      encoded(Image.fromarray(NOISE), 'PNG', **frames), NOISE, 0
    ),
  }


def _clear() -> dict:
  """PNGs that are partly clear: they lie on white."""
  red, alpha = NOISE[..., :1], NOISE[..., 1:2]
  share = alpha / 255
  on_white = NOISE * share + 255 * (1 - share)
  wide = np.concatenate([NOISE, alpha], -1).astype(np.uint16) * 256 + 77
  palette, entries = _palette()
  shares = np.array([255, 0, 51, 102])[NOISE[..., 0] % 4][..., None] / 255
  keyed = np.where((NOISE == NOISE[0, 0]).all(-1, keepdims=True), 255, NOISE)
  return {
    'grey png with alpha': (
      encoded(np.concatenate([red, alpha], -1), 'PNG'),
      np.repeat(red * share + 255 * (1 - share), 3, 2),
      1,
    ),
    'png with alpha': (
      encoded(np.concatenate([NOISE, alpha], -1), 'PNG'), on_white, 1
    ),
    '16-bit png with alpha': (png16(wide, 6), on_white, 1),
    'palette png with alpha': (
      encoded(palette, 'PNG', transparency=bytes([255, 0, 51, 102])),
      entries * shares + 255 * (1 - shares),
      1,
    ),
    'png with a clear colour': (
      encoded(NOISE, 'PNG', transparency=tuple(NOISE[0, 0].tolist())), keyed, 0
    ),
  }


def _palette() -> tuple[Image.Image, np.ndarray]:
  """A picture of four colours, and its RGB."""
  image = Image.fromarray(NOISE[..., 0] % 4, 'P')
  colours = [9, 8, 7], [60, 50, 40], [110, 120, 130], [200, 210, 220]
  image.putpalette(sum(colours, []))
  return image, np.array(colours)[NOISE[..., 0] % 4]


def _turns() -> dict:
  """Each EXIF orientation, in either byte order, and where formats keep it."""
  cases = {}
  for turn in SIDES:
    stored = turned(SMOOTH, turn)
    data = encoded(stored, 'JPEG', quality=95, exif=exif(turn, '<>'[turn % 2]))
    cases[f'jpeg turned by {turn}'] = (data, SMOOTH, 6)
  stored = turned(NOISE, 6)
  data = encoded(stored, 'PNG', exif=exif(6))
  late = encoded(stored, 'PNG')[:-12]
  late += png_chunk(b'eXIf', exif(6)[6:]) + png_chunk(b'IEND', b'')
  return cases | {
    'turned png': (data, NOISE, 0),
    'png that tells its turn at the end': (late, NOISE, 0),
    'turned webp': (
      encoded(stored, 'WEBP', lossless=True, exif=exif(6)), NOISE, 0
    ),
    'turned tiff': (encoded(stored, 'TIFF', tiffinfo={0x112: 6}), NOISE, 0),
    'turned by no known number': (
      encoded(NOISE, 'PNG', exif=exif(9)), NOISE, 0
    ),
  }


def _others() -> dict:
  grey = np.repeat(NOISE[..., :1], 3, 2)
  wide = NOISE[..., 0].astype(np.uint16) * 256 + 77
  frames = dict(save_all=True, append_images=[Image.fromarray(SMOOTH)])
  palette, entries = _palette()
  ink = np.broadcast_to(INK_RGB, SMOOTH.shape)
  pnm = b'P5 56 40 65535\n' + wide.astype('>u2').tobytes()
  return {
    'gif': (encoded(palette, 'GIF'), entries, 0),
    'animated gif': (
      encoded(
        palette, 'GIF', save_all=True, append_images=[palette.rotate(180)]
      ),
      entries,
      0,
    ),
    'webp': (encoded(NOISE, 'WEBP', lossless=True), NOISE, 0),
    'animated webp': (
      encoded(Image.fromarray(NOISE), 'WEBP', lossless=True, **frames), NOISE, 0
    ),
    'bmp': (encoded(NOISE, 'BMP'), NOISE, 0),
    'palette bmp': (encoded(palette, 'BMP'), entries, 0),
    'tiff': (encoded(NOISE, 'TIFF', compression='tiff_lzw'), NOISE, 0),
    'tiff of several pages': (
      encoded(Image.fromarray(NOISE), 'TIFF', **frames), NOISE, 0
    ),
    '16-bit grey tiff': (encoded(wide, 'TIFF'), grey, 0),
    'cmyk tiff': (encoded(Image.new('CMYK', (56, 40), INK), 'TIFF'), ink, 1),
    'ppm': (encoded(NOISE, 'PPM'), NOISE, 0),
    '16-bit pgm': (pnm, grey, 0),
    'jpeg 2000': (encoded(NOISE, 'JPEG2000'), NOISE, 0),
    'avif': (encoded(SMOOTH, 'AVIF', quality=100, subsampling='4:4:4'),
             SMOOTH, 4),
  }


def segment(jpeg: bytes, marker: int) -> slice:
  """Where a segment of a JPEG is."""
  start = jpeg.index(bytes([0xFF, marker]))
  return slice(start, start + 2 + int.from_bytes(jpeg[start + 2 : start + 4]))


def _without(jpeg: bytes, marker: int) -> bytes:
  cut = segment(jpeg, marker)
  return jpeg[: cut.start] + jpeg[cut.stop :]


def _ycck() -> bytes:
  """INK as luma, chroma and black. Pillow writes 255 less what it is given."""
  r, g, b = INK[:3]  # Adobe stores inks inverted: this RGB is their ink
  luma = .299 * r + .587 * g + .114 * b
  chroma = 128 + (b - luma) * .564, 128 + (r - luma) * .713
  stored = [255 - round(v) for v in (luma, *chroma)] + [INK[3]]
  jpeg = encoded(Image.new('CMYK', (56, 40), tuple(stored)), 'JPEG', quality=95)
  last = segment(jpeg, 0xEE).stop - 1
  return jpeg[:last] + b'\2' + jpeg[last + 1 :]
