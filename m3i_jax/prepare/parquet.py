"""Rows of Parquet files, as those of `rows`."""

import dataclasses
import functools
import json
from collections.abc import Iterator

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw
from m3i_jax.prepare.rows import Mark, Row

_PICTURES, _SMALL = 32, 2**12  # rows in memory, with pictures and without


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
