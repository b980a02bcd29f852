"""Reading tar files member by member; nothing is ever extracted.

Python's tarfile stops without a word at a damaged header and reads headers of
any size into memory, so only its parsing of one header is used here.
"""

import dataclasses
import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from m3i_jax.prepare import raw

BLOCK = 512
_EXTENSIONS = 2**16  # bytes of a long name or of attributes
_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_KINDS = {
    tarfile.REGTYPE: 'file',
    tarfile.AREGTYPE: 'file',
    tarfile.CONTTYPE: 'file',
    tarfile.DIRTYPE: 'folder',
    tarfile.SYMTYPE: 'symbolic link',
    tarfile.LNKTYPE: 'hard link',
    tarfile.CHRTYPE: 'device',
    tarfile.BLKTYPE: 'device',
    tarfile.FIFOTYPE: 'pipe',
    tarfile.GNUTYPE_SPARSE: 'sparse file',
}


class Broken(ValueError):
  """A tar that is cut short or damaged; the message says where."""


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a tar, or something that pretends to be one.

  Attributes:
    name: as written, without './' in front.
    kind: 'file', 'folder', or what else it is.
    start: of its bytes in the tar.
    size: in bytes.
  """

  name: str
  kind: str
  start: int
  size: int

  @property
  def unsafe(self) -> str:
    """Why it must not be believed; '' for an honest file or folder."""
    if self.kind not in ('file', 'folder'):
      return self.kind
    if not self.name and self.kind == 'file':
      return 'no name'
    if self.name.startswith(('/', '\\')) or re.match('[A-Za-z]:', self.name):
      return 'absolute path'
    if '..' in re.split(r'[/\\]', self.name):
      return 'path leads out'
    return '' if raw.is_utf8(self.name) else 'name is no UTF-8'


class Window(io.RawIOBase):
  """A part of a file as a file of its own: a tar in a tar."""

  def __init__(self, path: str, start: int, size: int):
    self._file = open(path, 'rb', buffering=0)
    self._start, self._size, self._place = start, size, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
    base = (0, self._place, self._size)[whence]
    self._place = base + place
    return self._place

  def readinto(self, buffer) -> int:
    self._file.seek(self._start + self._place)
    left = max(self._size - self._place, 0)
    data = self._file.read(min(len(buffer), left))
    buffer[: len(data)] = data
    self._place += len(data)
    return len(data)

  def close(self):
    self._file.close()
    super().close()


def open_tar(path: str, start: int = 0, size: int = -1) -> BinaryIO:
  """Opens a tar, a gzip-ed one, or the tar within `path` that starts there."""
  if size >= 0:
    return io.BufferedReader(Window(path, start, size))
  if not os.path.isfile(path):
    raise Broken('no such file')
  file = open(path, 'rb')
  if file.peek(2)[:2] == b'\x1f\x8b':
    file.close()
    return gzip.open(path)
  return file


def read(file: BinaryIO, member: Member) -> bytes:
  """A member's bytes, all of them.

  Raises:
    Broken: the tar ends before.
  """
  return _read(file, member.start, member.size, member.name)


def members(file: BinaryIO, closed: bool = False) -> Iterator[Member]:
  """The members of an open tar, in order; `read` may be called in between.

  Args:
    file: from `open_tar`.
    closed: the tar must have its closing block; some writers leave it out.

  Raises:
    Broken: the tar is damaged or ends early.
  """
  place, last, known = 0, '', {}
  while True:
    block = _read(file, place, BLOCK, last, or_end=True)
    if not block.strip(b'\0'):
      if not block and closed:
        raise Broken(f'ends early: nothing after {raw.shown(last)!r}')
      return
    info = _header(block, place)
    start = place + BLOCK
    place = start + info.size
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) or (
        info.type in _ATTRIBUTES
    ):
      known |= _extension(file, info, start)
      place += -info.size % BLOCK
      continue
    name = known.get('path', info.name)
    size = int(known.get('size', info.size))
    kind = _KINDS.get(info.type, 'unknown kind')
    if any(key.startswith('GNU.sparse') for key in known):
      kind = 'sparse file'
    if kind in ('folder', 'symbolic link', 'hard link', 'device', 'pipe'):
      size = 0
    last, known = name, {}
    yield Member(re.sub(r'^(\./+)+', '', name), kind, start, size)
    place = start + size + -size % BLOCK


def _header(block: bytes, place: int) -> tarfile.TarInfo:
  try:
    info = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
  except (tarfile.HeaderError, ValueError) as error:
    raise Broken(f'damaged: no header of a member at byte {place:,}') from error
  if info.size < 0:
    raise Broken(f'damaged: a size below 0 at byte {place:,}')
  return info


def _extension(file: BinaryIO, info: tarfile.TarInfo, start: int) -> dict:
  """What a header in front of the true one says of it."""
  if info.size > _EXTENSIONS:
    raise Broken(
        f'damaged: {info.size:,} bytes of attributes at byte {start:,}'
    )
  data = _read(file, start, info.size, 'attributes')
  if info.type == tarfile.GNUTYPE_LONGNAME:
    name = data.split(b'\0', 1)[0]
    return {'path': name.decode('utf-8', 'surrogateescape')}
  if info.type != tarfile.XHDTYPE and info.type != tarfile.SOLARIS_XHDTYPE:
    return {}  # a link's target, or attributes of all members
  known = {}
  while match := re.match(rb'(\d{1,9}) ([^=]+)=', data):
    length = int(match[1])
    key = match[2].decode('utf-8', 'replace')
    value = data[match.end() : length - 1]
    known[key] = value.decode('utf-8', 'surrogateescape')
    data = data[length:] if length else b''
  if not known.get('size', '0').isdecimal():
    raise Broken(f'damaged: a size that is no number at byte {start:,}')
  return known


def _read(
    file: BinaryIO, place: int, size: int, name: str, or_end: bool = False
) -> bytes:
  """Bytes of the tar; with `or_end`, b'' if it ends exactly there."""
  told = f'cut short: the tar ends within {raw.shown(name)!r}'
  try:
    file.seek(place)
    data = file.read(size)
    if len(data) == size:
      return data
    if or_end and not data and file.seek(0, io.SEEK_END) >= place:
      return b''
  except (OSError, EOFError, zlib.error, OverflowError, ValueError) as error:
    kind = 'cut short' if isinstance(error, EOFError) else 'damaged'
    raise Broken(f'{kind}: {raw.shown(name)!r} ({error})') from error
  raise Broken(told)
