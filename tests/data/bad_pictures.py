"""Files that are no picture, or a hostile one, and what is said of each."""

import struct
import zlib

import numpy as np

from tests.data.odd_pictures import (
  NOISE,
  SMOOTH,
  encoded,
  png,
  png_chunk,
  segment,
)


def broken() -> dict[str, tuple[bytes, str]]:
  """Files that are no picture: bytes, and how the PictureError begins."""
  whole = {
    kind: encoded(NOISE, kind)
    for kind in 'JPEG PNG WEBP BMP TIFF PPM JPEG2000 AVIF GIF'.split()
  }
  cases = {
    f'half a {kind}': (data[: len(data) // 2], 'unreadable')
    for kind, data in whole.items()
  }
  cases |= {
    f'head of a {kind}': (data[:20], 'unreadable')
    for kind, data in whole.items()
  }
  late = encoded(SMOOTH, 'JPEG', progressive=True)
  damaged = bytearray(whole['PNG'])
  damaged[len(damaged) // 2] ^= 0xFF
  return cases | _strangers() | _bombs() | {
    'progressive jpeg without its last bytes': (late[:-40], 'unreadable'),
    'png with a changed byte': (bytes(damaged), 'unreadable'),
    'png of no size': (png(0, 0, 8, 2, b''), 'unreadable'),
    'jpeg of no height': (_jpeg_of_size(56, 0), 'unreadable'),
    'tiff of floats': (
      encoded(np.ones((4, 4), np.float32), 'TIFF'), 'unreadable: floating'
    ),
    'tiff of 32-bit numbers': (
      encoded(np.full((4, 4), 2**20, np.int32), 'TIFF'), 'unreadable: pixels'
    ),
    'tiff whose directory is itself': (
      b'II*\0' + struct.pack('<IHI', 8, 0, 8), 'unreadable'
    ),
  }


def _strangers() -> dict:
  """Other things, whatever they are called."""
  tar = b'a.jpg'.ljust(257, b'\0') + b'ustar\x0000'.ljust(255, b'\0')
  contents = {
    'nothing': b'',
    'one byte': b'\xff',
    'html': b'<!DOCTYPE html><html><body>404</body></html>',
    'svg': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    'text': b'Not Found\n',
    'tar': tar,
    'zip': b'PK\3\4' + bytes(99),
    'pdf': b'%PDF-1.7\n%\xe2\xe3',
    'postscript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
    'photoshop': b'8BPS\0\1' + bytes(40),
    'icon': encoded(NOISE, 'ICO', sizes=[(16, 16)]),
    'targa': encoded(NOISE, 'TGA'),
    'heic': struct.pack('>I', 24) + b'ftypheic' + bytes(40),
    'jpeg after other bytes': b'\n' + encoded(SMOOTH, 'JPEG'),
  }
  kind = 'no picture of a known format: begins with b'
  return {name: (data, kind) for name, data in contents.items()}


def _bombs() -> dict:
  """60,000 x 60,000 pixels, or as many as the format has, in few bytes."""
  side, many, late = 60_000, 'too large', 'unreadable: Decompressed'
  header = png(side, side, 8, 2, b'')
  bmp = struct.pack('<2sIIIIIIHHIIIIII', b'BM', 99, 0, 54, 40, side, side, 1,
                    24, 0, 0, 0, 0, 0, 0)
  size = (side - 1).to_bytes(3, 'little')
  webp = b'WEBPVP8X' + struct.pack('<II', 10, 0) + size + size
  webp = b'RIFF' + struct.pack('<I', len(webp)) + webp
  jp2 = encoded(NOISE, 'JPEG2000', no_jp2=True)
  jp2 = jp2[:8] + struct.pack('>II', side, side) + jp2[16:]
  text = png_chunk(b'zTXt', b'k\0\0' + zlib.compress(bytes(2**26), 9))
  profile = png_chunk(b'iCCP', b'k\0\0' + zlib.compress(bytes(2**26), 9))
  return {
    'huge png': (header, many),
    'huge gif': (_gif(side, 9), many),
    'gif with a huge frame': (_gif(9, side), many),
    'huge bmp': (bmp, many),
    'huge tiff': (_tiff(side, 16), many),
    'tiff of huge tiles': (_tiff(16, 65_520), 'unreadable'),
    'huge webp': (webp, many),
    'huge jpeg': (_jpeg_of_size(side, side), many),
    'huge jpeg 2000': (jp2, many),
    'huge ppm': (b'P6 60000 60000 255\n' + bytes(99), many),
    'png with a text of 64 MiB': (png(9, 9, 8, 0, bytes(90), text), late),
    'png with a profile of 64 MiB': (png(9, 9, 8, 0, bytes(90), profile), late),
  }


def _jpeg_of_size(width: int, height: int) -> bytes:
  """A small JPEG that claims another size."""
  jpeg = encoded(SMOOTH, 'JPEG')
  at = segment(jpeg, 0xC0).start + 5
  return jpeg[:at] + struct.pack('>HH', height, width) + jpeg[at + 4 :]


def _gif(screen: int, frame: int) -> bytes:
  """A GIF of so many pixels a side, and of its only frame."""
  head = struct.pack('<6sHHBBB', b'GIF89a', screen, screen, 0x80, 0, 0)
  place = struct.pack('<BHHHHBB', 0x2C, 0, 0, frame, frame, 0, 8)
  return head + bytes(6) + place + b';'


def _tiff(side: int, tile: int) -> bytes:
  """A TIFF of so many pixels a side, and a side of its only stored tile."""
  entries = [
    (256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1),
    (322, tile), (323, tile), (324, 200), (325, 256),
  ]  # fmt: skip
  directory = struct.pack('<H', len(entries)) + b''.join(
    struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries
  )
  head = b'II*\0' + struct.pack('<I', 8) + directory + bytes(4)
  return head.ljust(200, b'\0') + bytes(256)
