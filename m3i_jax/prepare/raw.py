"""Reading what others wrote: bounded, checked, and without surprises."""

import codecs
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from typing import Any

PICTURE_BYTES = 256 * 2**20  # a larger picture is not read
TEXT_BYTES = 2**20  # nor a larger caption or JSON


class Unusable(ValueError):
  """Why a record is bad: what stands before the first ':' is counted by."""


def read_file(path: str, most: int = PICTURE_BYTES) -> bytes:
  """A regular file's bytes.

  Raises:
    Unusable: there is none, or it is larger than `most` bytes. Folders are
      not named: the same source says the same wherever it lies.
  """
  name = shown(os.path.basename(path))
  try:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
      raise Unusable(f'no regular file: {name}')
    if found.st_size > most:
      raise too_large(name, found.st_size, most)
    with open(path, 'rb') as file:
      return file.read(found.st_size)  # more is set aside before reading
  except FileNotFoundError as error:
    raise Unusable(f'missing file: {name}') from error
  except OSError as error:
    raise Unusable(f'unreadable file: {name} ({error.strerror})') from error


def too_large(name: str, size: int, most: int) -> Unusable:
  """The reason of a file that is not read."""
  return Unusable(
      f'too large: {name} has {size / 2**20:,.1f} MiB, {most / 2**20:,.0f} '
      'are allowed'
  )


def shown(path: str) -> str:
  """A path on one line, also if its name is no UTF-8."""
  text = path.encode('utf-8', 'backslashreplace').decode()
  return re.sub(r'[\x00-\x1f\x7f]', '?', text)


def is_utf8(path: str) -> bool:
  """Whether a path can be an id: other bytes have no text."""
  try:
    path.encode()
  except UnicodeEncodeError:
    return False
  return True


def whole(text: str) -> str:
  """A text without the halves of characters that JSON may have in it."""
  return text.encode('utf-8', 'replace').decode()


def lines(data: bytes, name: str) -> tuple[str, ...]:
  """The captions of a text file: one a line, blank ones dropped.

  Raises:
    Unusable: it is neither UTF-8 nor UTF-16 with a byte order mark.
  """
  wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    text = data.decode('utf-16' if wide else 'utf-8-sig')
  except UnicodeDecodeError as error:
    raise Unusable(
        f'encoding of a text: {name} is neither UTF-8 nor UTF-16 with a byte '
        'order mark'
    ) from error
  found = (line.strip() for line in re.split(r'\r\n|\r|\n', text))
  return tuple(line for line in found if line)


def texts(value: Any, name: str) -> tuple[str, ...]:
  """The captions in a field: one, a list of them, or none.

  Raises:
    Unusable: it is something else.
  """
  values = value if isinstance(value, list | tuple) else (value,)
  found = []
  for one in values:
    if one is None or one != one:  # NaN is how pandas writes nothing
      continue
    if isinstance(one, bytes):
      found += lines(one, name)
    elif isinstance(one, str):
      found.append(whole(one).strip())
    else:
      kind = type(one).__name__
      raise Unusable(f'caption is no text: {name} is of type {kind}')
  return tuple(text for text in found if text)


def fingerprint(paths: Iterable[str], *more: Any) -> str:
  """A digest of files' paths, sizes and times of change, and of `more`."""
  digest = hashlib.sha256(repr(more).encode())
  for path in paths:
    try:
      found = os.stat(path)
      state = (path, found.st_size, found.st_mtime_ns)
    except (OSError, ValueError):
      state = (path, -1, -1)
    digest.update(repr(state).encode())
  return digest.hexdigest()
