"""Rows of CSV, TSV, JSONL and Parquet files, from any place, one at a time.

A row is (mark, values): its values by column, or a raw.Unusable that says why
it cannot be read. A mark tells where to begin to get that row again.
"""

import codecs
import csv
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw

SUFFIXES = ('.csv', '.tsv', '.jsonl', '.ndjson', '.parquet')
_LINE = 2**20  # bytes of a line of CSV; longer ones are bad
_JSON_LINE = 2**28  # with the picture inside
_PICTURES, _SMALL = 32, 2**12  # rows of Parquet in memory


class Mark(NamedTuple):
  """A row's number, from 1, and the byte at which it begins."""

  number: int
  place: int


Row = tuple[Mark, dict[str, Any] | raw.Unusable]


@dataclasses.dataclass(frozen=True)
class Csv:
  """Comma, tab or semicolon between the columns, names in the first row."""

  path: str

  @functools.cached_property
  def _head(self) -> tuple[str, tuple[str, ...], int]:
    """The delimiter, the names, and where the first row begins."""
    with open(self.path, 'rb') as file:
      line = file.readline(_LINE)
      end = file.tell()
    text = _head_text(self.path, line)
    delimiter = max('\t,;', key=text.count)
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
      lines = _Lines(file, self.path)
      reader = csv.reader(lines, delimiter=delimiter)
      while True:
        mark = Mark(number, lines.place)
        try:
          values = next(reader)
        except StopIteration:
          return
        except raw.Unusable as error:
          reader = csv.reader(lines, delimiter=delimiter)
          yield mark, _at(error, number)
          number += 1
          continue
        except csv.Error as error:
          yield mark, raw.Unusable(
              f'row of a table: row {number}: {error}'
          )
          number += 1
          continue
        if not values:
          continue  # a blank line
        if len(values) == len(names):
          yield mark, dict(zip(names, values, strict=True))
        else:
          yield mark, raw.Unusable(
              f'ragged row: row {number} has {len(values)} columns, its '
              f'header {len(names)}'
          )
        number += 1


def _head_text(path: str, line: bytes) -> str:
  if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    raise UserError(f'{path} is UTF-16: save it as UTF-8')
  if line[:2] == b'\x1f\x8b':
    raise UserError(f'{path} is compressed: unpack it with gunzip')
  try:
    text = line.decode('utf-8-sig').strip('\r\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: its first row is not UTF-8') from error
  if not text.strip() or '\0' in text:
    raise UserError(f'{path}: its first row does not name the columns')
  return text


class _Lines:
  """Text lines of a file, for csv, which asks for more within quotes.

  Attributes:
    place: of the next line.
  """

  def __init__(self, file: BinaryIO, path: str):
    self._file = file
    self._path = path
    self.place = file.tell()

  def __iter__(self):
    return self

  def __next__(self) -> str:
    line = _line(self._file, _LINE)
    self.place = self._file.tell()
    if not line:
      raise StopIteration
    return _text(line)


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
      start = file.read(2)
    if start[:2] == b'\x1f\x8b':
      raise UserError(f'{self.path} is compressed: unpack it with gunzip')
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
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


@dataclasses.dataclass(frozen=True)
class Parquet:
  """A Parquet file, also one of Hugging Face's data sets."""

  path: str

  def _open(self):
    import pyarrow as pa  # half a second: only if needed
    import pyarrow.parquet as pq

    try:
      # One page at a time; otherwise a whole group of rows is in memory.
      return pq.ParquetFile(self.path, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
      told = str(error).splitlines()[0]
      raise UserError(
          f'{self.path} is no whole Parquet file: {told}'
      ) from error

  @functools.cached_property
  def columns(self) -> tuple[str, ...]:
    with self._open() as file:
      return tuple(file.schema_arrow.names)

  @property
  def count(self) -> int:
    """How many rows there are."""
    with self._open() as file:
      return file.metadata.num_rows

  def names(self, column: str) -> tuple[str, ...]:
    """The classes that Hugging Face has written for a column, or ()."""
    with self._open() as file:
      about = (file.schema_arrow.metadata or {}).get(b'huggingface', b'{}')
    try:
      feature = json.loads(about)['info']['features'][column]
      return tuple(map(str, feature['names']))
    except (ValueError, KeyError, TypeError):
      return ()

  def rows(
      self, mark: Mark | None = None, columns: tuple[str, ...] = ()
  ) -> Iterator[Row]:
    """As Csv.rows. A mark's `place` is not used."""
    import pyarrow as pa

    first = mark.number if mark else 1
    number = 1
    try:
      with self._open() as file:
        names = list(columns or file.schema_arrow.names)
        kinds = [str(file.schema_arrow.field(name).type) for name in names]
        binary = any('binary' in kind for kind in kinds)
        for group in range(file.metadata.num_row_groups):
          there = file.metadata.row_group(group).num_rows
          if number + there <= first:
            number += there
            continue
          size = _PICTURES if binary else _SMALL
          for batch in file.iter_batches(size, [group], names):
            start = max(first - number, 0)
            for i, values in enumerate(batch[start:].to_pylist(), start):
              yield Mark(number + i, 0), values
            number += len(batch)
    except (pa.ArrowException, OSError, ValueError) as error:
      told = str(error.__cause__ or error).splitlines()[0]
      yield Mark(number, 0), raw.Unusable(
          f'Parquet cannot be read: from row {number} on: {told}'
      )


Table = Csv | Jsonl | Parquet


def open_table(path: str) -> Table:
  """A table by its suffix."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix == '.parquet':
    return Parquet(path)
  return Jsonl(path) if suffix in ('.jsonl', '.ndjson') else Csv(path)
