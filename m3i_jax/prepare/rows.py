"""Rows of CSV, TSV and JSONL files, from any place, one at a time.

A row is (mark, values): its values by column, or a raw.Unusable that says why
it cannot be read. A mark tells where to begin to get that row again.
"""

import codecs
import csv
import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw

_LINE = 2**20  # bytes of a line of CSV; longer ones are bad
_JSON_LINE = 2**28  # with the picture inside


class Mark(NamedTuple):
  """A row's number, from 1, and the byte at which it begins."""

  number: int
  place: int


class Torn(raw.Unusable):
  """A row that cannot be read but for some columns, its `values`."""

  def __init__(self, reason: str, values: dict[str, Any]):
    super().__init__(reason)
    self.values = values


Row = tuple[Mark, dict[str, Any] | raw.Unusable]


@dataclasses.dataclass(frozen=True)
class Csv:
  """Comma, tab or semicolon between the columns, names in the first row."""

  path: str

  @functools.cached_property
  def _head(self) -> tuple[str, tuple[str, ...], int]:
    """The delimiter, the names, and where the first row begins."""
    with open(self.path, 'rb') as file:
      text = _head_text(self.path, file.readline(_LINE))
      said = re.fullmatch(r'sep=(.)', text)  # by Excel, above the names
      if said:
        text = _head_text(self.path, file.readline(_LINE))
      end = file.tell()
    delimiter = said[1] if said else max('\t,;', key=text.count)
    try:
      (names,) = csv.reader([text], delimiter=delimiter)
    except (csv.Error, ValueError) as error:
      raise UserError(f'{self.path}: its first row cannot be read') from error
    return delimiter, tuple(name.strip() for name in names), end

  @property
  def columns(self) -> tuple[str, ...]:
    return self._head[1]

  def rows(
      self, mark: Mark | None = None, columns: tuple[str, ...] = ()
  ) -> Iterator[Row]:
    """The rows from a mark on.

    Args:
      mark: of the first row; None for the beginning.
      columns: those that are needed; others may be there, too.
    """
    del columns
    delimiter, names, start = self._head
    number, place = mark or Mark(1, start)
    with open(self.path, 'rb') as file:
      file.seek(place)
      lines = _Lines(file)
      reader = csv.reader(lines, delimiter=delimiter)
      while True:
        mark = Mark(number, lines.begin())
        try:
          values = next(reader)
          lines.check(delimiter)
        except StopIteration:
          return
        except raw.Unusable as error:
          row = _at(error, number)
        except csv.Error as error:
          row = raw.Unusable(f'row of a table: row {number}: {error}')
        else:
          if not values:
            continue  # a blank line
          row = _named(names, values, number)
        if isinstance(row, raw.Unusable):
          lines.back()
          reader = csv.reader(lines, delimiter=delimiter)
        yield mark, row
        number += 1


def _named(
    names: tuple[str, ...], values: list[str], number: int
) -> dict[str, Any] | raw.Unusable:
  if len(values) == len(names):
    return dict(zip(names, values, strict=True))
  return raw.Unusable(
      f'ragged row: row {number} has {len(values)} columns, its header '
      f'{len(names)}'
  )


def _head_text(path: str, line: bytes) -> str:
  if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise UserError(f'{path} is UTF-16: save it as UTF-8')
  if line[:2] == b'\x1f\x8b':
    raise UserError(f'{path} is compressed: unpack it with gunzip')
  if b'\r' in line.rstrip(b'\r\n'):
    raise UserError(f'{path} has CR alone as line ends: save it with LF')
  try:
    text = line.decode('utf-8-sig').strip('\r\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: its first row is not UTF-8') from error
  if not text.strip() or '\0' in text:
    raise UserError(f'{path}: its first row does not name the columns')
  return text


class _Lines:
  """Text lines of a file, for csv, which asks for more within quotes."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.begin()

  def __iter__(self):
    return self

  def __next__(self) -> str:
    line = _line(self._file, _LINE)
    place = self._file.tell()
    self._second = self._second or place
    if not line:
      self._ended = True
      raise StopIteration
    if place - self._start > 2 * _LINE:
      raise raw.Unusable('row is too long: {}')
    self._row.append(_text(line))
    return self._row[-1]

  def begin(self) -> int:
    """Begins a row; where that is."""
    self._start, self._second = self._file.tell(), 0
    self._ended = False  # more was asked for after the last line
    self._row: list[str] = []
    return self._start

  def check(self, delimiter: str):
    """Whether quotes have kept the lines of the row together.

    A quote too many takes rows to itself, to the next quote or to the end.

    Raises:
      raw.Unusable: there is no last quote.
      csv.Error: something other than a delimiter is after it.
    """
    if self._ended:
      raise raw.Unusable('row of a table: {}: a quote is never closed')
    if len(self._row) > 1:
      next(csv.reader(self._row, delimiter=delimiter, strict=True))

  def back(self):
    """To the row's second line: it may well be a row."""
    self._file.seek(self._second)


def _line(file: BinaryIO, most: int) -> bytes:
  """The next line; of one that is too long, its beginning."""
  line = file.readline(most)
  rest = line
  while rest and not rest.endswith(b'\n'):
    rest = file.readline(2**20)
    if rest:
      line = line[:most] + b'\0'
  return line


def _text(line: bytes) -> str:
  if line.endswith(b'\0'):
    raise raw.Unusable('line is too long: {}')
  try:
    return line.decode()
  except UnicodeDecodeError as error:
    raise raw.Unusable('encoding of a table: {} is not UTF-8') from error


def _at(error: raw.Unusable, number: int) -> raw.Unusable:
  return raw.Unusable(str(error).format(f'row {number}'))


@dataclasses.dataclass(frozen=True)
class Jsonl:
  """A JSON object on each line."""

  path: str

  @functools.cached_property
  def columns(self) -> tuple[str, ...]:
    """The keys of the first rows."""
    with open(self.path, 'rb') as file:
      start = file.read(100)
    if start[:2] == b'\x1f\x8b':
      raise UserError(f'{self.path} is compressed: unpack it with gunzip')
    if start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b'[':
      raise UserError(
          f'{self.path} is a JSON array: one object a line is wanted'
      )
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
      raise UserError(f'{self.path} is UTF-16: save it as UTF-8')
    keys: dict[str, None] = {}
    problem = 'it is empty'
    for mark, values in self.rows():
      if isinstance(values, dict):
        keys |= dict.fromkeys(values)
      else:
        problem = str(values)
      if mark.number == 1000:
        break
    if not keys:
      raise UserError(f'{self.path} has no row that can be read: {problem}')
    return tuple(keys)

  def rows(
      self, mark: Mark | None = None, columns: tuple[str, ...] = ()
  ) -> Iterator[Row]:
    """As Csv.rows."""
    del columns
    number, place = mark or Mark(1, 0)
    with open(self.path, 'rb') as file:
      file.seek(place)
      while line := _line(file, _JSON_LINE):
        if line.strip():
          yield Mark(number, place), self._values(line, number)
          number += 1
        place = file.tell()

  def _values(self, line: bytes, number: int) -> dict[str, Any] | raw.Unusable:
    try:
      values = json.loads(_text(line).removeprefix('\ufeff'))
    except raw.Unusable as error:
      return _at(error, number)
    except (ValueError, RecursionError) as error:
      return raw.Unusable(
          f'JSON cannot be read: row {number} ({error})'
      )
    if isinstance(values, dict):
      return values
    return raw.Unusable(f'JSON is no object: row {number}')
