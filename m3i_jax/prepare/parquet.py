"""Rows of Parquet files, as those of `rows`."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw
from m3i_jax.prepare.rows import Mark, Row, Torn

_ROWS = 2**12  # in memory at once, at most
_BYTES = 2**26  # of these rows, as far as their number can do
_PACKED = 100  # times smaller than it is: no large column of pictures is


@dataclasses.dataclass(frozen=True)
class Parquet:
  """A Parquet file, also one of Hugging Face's data sets."""

  path: str

  def _open(self):
    import pyarrow.parquet as pq  # half a second: only if needed

    try:
      # One page at a time; otherwise a whole group of rows is in memory.
      return pq.ParquetFile(self.path, buffer_size=2**20, pre_buffer=False)
    except _failures() as error:
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
    """How many rows there are; UserError if that is not said twice."""
    with self._open() as file:
      about = file.metadata
      numbers = range(about.num_row_groups)
      groups = [about.row_group(i).num_rows for i in numbers]
      if sum(groups) != about.num_rows or min(groups, default=0) < 0:
        raise UserError(
            f'{self.path} is damaged: it has {sum(groups):,} rows, and says '
            f'that it has {about.num_rows:,}'
        )
      return about.num_rows

  def names(self, column: str) -> tuple[str, ...]:
    """The classes that Hugging Face has written for a column, or ()."""
    with self._open() as file:
      about = (file.schema_arrow.metadata or {}).get(b'huggingface', b'{}')
    try:
      feature = json.loads(about)['info']['features'][column]
      return tuple(map(str, feature['names']))
    except (ValueError, KeyError, TypeError, RecursionError):
      return ()

  def rows(
      self, mark: Mark | None = None, columns: tuple[str, ...] = ()
  ) -> Iterator[Row]:
    """As Csv.rows. A mark's `place` is not used."""
    first = mark.number if mark else 1
    number = 1
    with self._open() as file:
      names = list(columns or file.schema_arrow.names)
      for group in range(file.metadata.num_row_groups):
        there = file.metadata.row_group(group).num_rows
        if number + there > first:
          start = max(first - number, 0)
          for i, values in _group(file, group, names, start):
            yield Mark(number + i, 0), values
        number += there


def _group(
    file, group: int, names: list[str], start: int
) -> Iterator[tuple[int, dict[str, Any] | Torn]]:
  """(index, row) of a group of rows from `start` on, all that it should have.

  Of rows that cannot be read, the columns that can be read alone are given.
  """
  binary, about = _binary(file, names), file.metadata.row_group(group)
  done, told = 0, 'Parquet cannot be read: it is not there'
  try:
    for batch in file.iter_batches(_batch(about, names), [group], names):
      skipped = max(start - done, 0)
      yield from enumerate(batch[skipped:].to_pylist(), done + skipped)
      done += len(batch)
  except raw.Unusable as error:
    told = str(error)
  except _failures() as error:
    told = f'Parquet cannot be read: {str(error).splitlines()[0]}'
  rest = range(max(start, done), about.num_rows)
  alone = {}
  for name in names if rest else ():
    if name not in binary:
      with contextlib.suppress(*_failures()):
        _batch(about, [name])
        column = file.read_row_group(group, [name]).column(name)
        if len(column) >= rest.stop:
          alone[name] = column
  for i in rest:
    values = {name: column[i].as_py() for name, column in alone.items()}
    yield i, Torn(told, values)


def _batch(about, names: list[str]) -> int:
  """How many rows of a group to read at once, that the memory be bounded.

  A value may stand in a dictionary once, for any number of rows, so that each
  of them may be as large as the columns are.

  Raises:
    raw.Unusable: a column is far larger than in the file.
  """
  total = 1
  for column in map(about.column, range(about.num_columns)):
    name = column.path_in_schema
    if not any(name == n or name.startswith(f'{n}.') for n in names):
      continue
    size = column.total_uncompressed_size
    most = raw.PICTURE_BYTES
    packed = size > _PACKED * column.total_compressed_size
    if size > most and packed or size > about.num_rows * most:
      raise raw.too_large(repr(name), size, most)
    total += max(size, 0)
  return max(1, min(_BYTES // total, _ROWS))


def _binary(file, names: list[str]) -> set[str]:
  """The columns that have bytes, which are pictures."""
  kinds = {name: str(file.schema_arrow.field(name).type) for name in names}
  return {name for name, kind in kinds.items() if 'binary' in kind}


def _failures() -> tuple[type[Exception], ...]:
  """What damaged data makes pyarrow raise."""
  import pyarrow as pa

  return pa.ArrowException, OSError, ValueError, OverflowError
