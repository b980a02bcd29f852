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

from m3i_jax.prepare import raw, tar_headers
from m3i_jax.prepare.tar_headers import BLOCK, Broken, Damaged

_EXTENSIONS = 2**16  # bytes of a long name or of attributes
_HEADERS = 6  # of one member; honest ones have up to four
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_FAILURES = (OSError, EOFError, zlib.error, OverflowError, ValueError)
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


@dataclasses.dataclass(frozen=True)
class Member:
  """A file in a tar, or something that pretends to be one.

  Attributes:
    name: as written, without './'.
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
  """Opens a tar, a gzip-ed one, or the tar within `path` that starts there.

  Raises:
    Broken: it cannot be opened; its folder is not named.
  """
  if not os.path.isfile(path):  # opening a pipe would wait for ever
    raise Broken('cannot be opened: no such file')
  try:
    if size >= 0:
      return io.BufferedReader(Window(path, start, size))
    file = open(path, 'rb')
    if file.peek(2)[:2] == b'\x1f\x8b':
      file.close()
      return gzip.open(path)
    return file
  except OSError as error:
    raise Broken(f'cannot be opened: {error.strerror}') from error


def read(file: BinaryIO, member: Member) -> bytes:
  """A member's bytes, all of them.

  Raises:
    Broken: the tar ends before.
  """
  return _read(file, member.start, member.size, member.name)


def members(file: BinaryIO) -> Iterator[Member]:
  """The members of an open tar, in order; `read` may be called in between.

  Args:
    file: from `open_tar`.

  Raises:
    Broken: the tar is damaged or ends early.
  """
  for found in survivors(file):
    if isinstance(found, Broken):
      raise found
    yield found


def survivors(file: BinaryIO) -> Iterator[Member | Broken]:
  """As `members`, but what is damaged is given as such, and reading goes on.

  It goes on at the next header, if there is one. A tar ends with zeros: one
  without them was cut. Nothing is read backwards, which would begin a
  compressed tar anew.
  """
  place, last, block = 0, '', b''
  try:
    while block := block or _read(file, place, BLOCK, last, or_end=True):
      try:
        member = _member(file, block, place)
      except Damaged as damage:
        end = not block.strip(b'\0')
        place, block = _next_header(file, damage.place)
        if block is not None or not end:
          yield damage
        if not block:
          return
        continue
      yield member
      last, block = member.name, b''
      place = member.start + member.size + -member.size % BLOCK
  except Broken as error:
    yield error
    return
  after = f'after {raw.shown(last)!r}' if last else 'at once'
  yield Broken(f'cut short: it ends {after}, without the zeros of an end')


def _member(file: BinaryIO, block: bytes, place: int) -> Member:
  """The member whose first header is `block`, read from `place`.

  Raises:
    Damaged: one of its headers is no header.
    Broken: the tar ends before its bytes begin.
  """
  known: dict[str, str] = {}
  for _ in range(_HEADERS):
    info = tar_headers.parse(block, place)
    start = place + BLOCK
    if info.type not in (*_LONG, *_ATTRIBUTES):
      return _described(info, known, start)
    known |= _extension(file, info, start)
    place = start + info.size + -info.size % BLOCK
    block = _read(file, place, BLOCK, known.get('path', info.name))
  raise Damaged(
      f'damaged: more than {_HEADERS} headers of a member at byte {place:,}',
      place,
  )


def _described(
    info: tarfile.TarInfo, known: dict[str, str], start: int
) -> Member:
  name = known.get('path', info.name)
  size = int(known.get('size', info.size))
  kind = _KINDS.get(info.type, 'unknown kind')
  if any(key.startswith(tar_headers.SPARSE) for key in known):
    kind = 'sparse file'
  if kind in ('folder', 'symbolic link', 'hard link', 'device', 'pipe'):
    size = 0
  return Member(re.sub(r'(^|/)(\./+)+', r'\1', name), kind, start, size)


def _next_header(file: BinaryIO, place: int) -> tuple[int, bytes | None]:
  """The next header and where it is.

  Returns:
    b'' if there is none, None if there are but zeros.
  """
  rest = None
  try:
    file.seek(place)
    while block := file.read(BLOCK):
      if block[257:262] == b'ustar' and tar_headers.is_header(block):
        return place, block
      if rest is None and block.strip(b'\0'):
        rest = b''
      place += len(block)
  except _FAILURES as error:
    raise Broken(f'damaged: from byte {place:,} on ({error})') from error
  return place, rest


def _extension(
    file: BinaryIO, info: tarfile.TarInfo, start: int
) -> dict[str, str]:
  """What a header in front of the true one says of it."""
  if info.size > _EXTENSIONS:
    raise Damaged(
        f'damaged: {info.size:,} bytes of attributes at byte {start:,}', start
    )
  data = _read(file, start, info.size, 'attributes')
  if info.type == tarfile.GNUTYPE_LONGNAME:
    name = data.split(b'\0', 1)[0]
    return {'path': name.decode('utf-8', 'surrogateescape')}
  if info.type not in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
    return {}  # a link's target, or attributes of all members
  after = start + info.size + -info.size % BLOCK
  known = tar_headers.attributes(data)
  if known is None:
    raise Damaged(f'damaged: attributes at byte {start:,}', after)
  if not re.fullmatch(r'[0-9]{1,19}', known.get('size', '0')):
    told = f'damaged: a size that is no number at byte {start:,}'
    raise Damaged(told, after)
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
  except _FAILURES as error:
    kind = 'cut short' if isinstance(error, EOFError) else 'damaged'
    raise Broken(f'{kind}: {raw.shown(name)!r} ({error})') from error
  raise Broken(told)
