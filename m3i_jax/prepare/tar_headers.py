"""Headers of tars: what they say, and what they must not be."""

import re
import tarfile

BLOCK = 512
SPARSE = 'GNU.sparse'  # begins attributes of files whose holes are left out
_LENGTH = re.compile(rb'([0-9]{1,9}) ')


class Broken(ValueError):
  """A tar that is cut short or damaged; the message says where."""


class Damaged(Broken):
  """A header that is none; reading may go on from `place`."""

  def __init__(self, told: str, place: int):
    super().__init__(told)
    self.place = place


def is_header(block: bytes) -> bool:
  """Whether a block is one."""
  try:
    parse(block, 0)
  except Damaged:
    return False
  return True


def parse(block: bytes, place: int) -> tarfile.TarInfo:
  """The header in a block from byte `place`; raises Damaged."""
  at, after = f'at byte {place:,}', place + BLOCK
  if not block.strip(b'\0'):
    raise Damaged(f'damaged: zeros in its midst {at}', after)
  try:
    info = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
  except (tarfile.HeaderError, ValueError) as error:
    raise Damaged(f'damaged: no header of a member {at}', after) from error
  if info.size < 0:
    raise Damaged(f'damaged: a size below 0 {at}', after)
  return info


def attributes(data: bytes) -> dict[str, str] | None:
  """Those that matter of pax's records, 'LENGTH KEY=VALUE' and a line's end.

  Returns:
    None if the lengths are wrong.
  """
  known, place = {}, 0
  while place < len(data) and data[place]:
    match = _LENGTH.match(data, place)
    end = place + int(match[1]) if match else 0
    if not match or not match.end() < end <= len(data):
      return None
    key, _, value = data[match.end() : end - 1].partition(b'=')
    if key in (b'path', b'size') or key.startswith(SPARSE.encode()):
      known[key.decode('utf-8', 'replace')] = value.decode(
          'utf-8', 'surrogateescape'
      )
    place = end
  return known
