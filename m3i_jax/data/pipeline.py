"""Batches of views and tokens; every row a function of (seed, position).

Row r of step t is position t * B + r of one endless order of the records, and
each crop and caption is drawn from (seed, position). So a run goes on from a
bare step number, and on any number of hosts it sees the same batches.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from m3i_jax.data.crops import Crop, cut_all
from m3i_jax.data.mixture import order_of
from m3i_jax.data.pictures import PictureError
from m3i_jax.data.quarantine import Quarantine
from m3i_jax.data.sources import Source
from m3i_jax.data.texts import Text
from m3i_jax.errors import UserError

MAX_REPLACEMENTS = 100  # unreadable records in a row before giving up
_CHUNK = 32  # rows that one thread makes at a time
_STREAMS = {'text': 0, 'a': 1, 'b': 2}  # independent draws of one position


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a batch holds: the views by name ('a', 'b'), labels, text."""

  crops: Mapping[str, Crop]
  label: bool = False
  text: Text | None = None


def sample(
    source: Source,
    seed: int,
    position: int,
    recipe: Recipe,
    quarantine: Quarantine = Quarantine(),  # noqa: B008, it is immutable
) -> dict[str, Any]:
  """The row of a batch at a position of the global order.

  A record whose picture cannot be read goes into quarantine, and another one
  of its source takes its place, always the same.

  Raises:
    UserError: MAX_REPLACEMENTS records in a row cannot be read.
  """
  order = order_of(source, seed)
  first = order[position]
  rng = functools.partial(_rng, seed, position)
  for tries in range(MAX_REPLACEMENTS):
    index = order.instead(first, tries)
    name = f'record {index}'
    try:
      record = source[index]
      name = record['id']
      row = cut_all(record['image'], recipe.crops, rng)
    except PictureError as error:
      quarantine.add(name, str(error))
      continue
    if recipe.label:
      row['label'] = np.int32(record['label'])
    if recipe.text:
      row |= recipe.text.row(record, rng('text'))
    return row | {'record': np.int32(index), 'replaced': np.bool_(tries > 0)}
  raise UserError(
      f'{MAX_REPLACEMENTS} pictures in a row cannot be read, the last is '
      f'{name!r}: check the data set'
  )


def loader(
    source: Source,
    recipe: Recipe,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    stop_step: int,
    local: slice | np.ndarray = slice(None),
    threads: int | None = None,
    workers: int = 0,
    quarantine: Quarantine = Quarantine(),  # noqa: B008, it is immutable
) -> Iterator[dict[str, Any]]:
  """Batches of steps start_step .. stop_step - 1, made ahead of their use.

  Args:
    source: where the records come from.
    recipe: what a row holds.
    seed: of order, crops and captions.
    batch_size: rows of the global batch.
    start_step: first step to yield.
    stop_step: step to end before.
    local: the rows of the global batch that this host holds.
    threads: that make rows, in each process. If None, one for pictures already
      decoded, where the interpreter's lock makes more of them slower, and one a
      core (at most 16) for encoded ones.
    workers: processes besides this one, for hosts with many cores.
    quarantine: where pictures that cannot be read are listed.
  """
  if threads is None:
    threads = 1 if _decoded(source) else min(os.cpu_count() or 1, 16)
  rows = np.arange(batch_size)[local]
  chunks = np.array_split(rows, -(-len(rows) // _CHUNK))

  def make(number: int) -> dict[str, Any]:
    step, part = divmod(number, len(chunks))
    start = step * batch_size
    return _combine(
        np.stack,
        [
            sample(source, seed, start + int(r), recipe, quarantine)
            for r in chunks[part]
        ],
    )

  first, last = start_step * len(chunks), stop_step * len(chunks)
  pieces = grain.MapDataset.range(first, last).map(make).to_iter_dataset(
      grain.ReadOptions(threads, prefetch_buffer_size=len(chunks) + threads)
  )
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain's processes read absl flags
    pieces = pieces.mp_prefetch(grain.MultiprocessingOptions(workers))
  join = functools.partial(_combine, np.concatenate)
  return iter(pieces.batch(len(chunks), batch_fn=join))


def _decoded(source: Source) -> bool:
  """Whether the first picture (of each source, if they are mixed) is."""
  starts = itertools.accumulate(order_of(source, 0).lengths[:-1], initial=0)
  try:
    return all(isinstance(source[i]['image'], np.ndarray) for i in starts)
  except PictureError:
    return False


def _rng(seed: int, position: int, stream: str) -> np.random.Generator:
  return np.random.default_rng((seed, position, _STREAMS[stream]))


def _combine(join: Any, parts: Sequence[Any]) -> Any:
  """Joins the leaves of equally nested dicts."""
  if isinstance(parts[0], dict):
    return {key: _combine(join, [p[key] for p in parts]) for key in parts[0]}
  return join(parts)
