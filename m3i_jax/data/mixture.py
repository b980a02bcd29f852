"""Several sources under one index, each drawn in its share."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from m3i_jax.data.order import Order
from m3i_jax.data.sources import Fields, Record, Source
from m3i_jax.errors import UserError

_MOST = 2**31 - 1  # records that an int32 counts


class Mixture:
  """Records of all sources, those of one after those of the other.

  Attributes:
    classes: the names of all labels; those that sources share are one class.
    fields: of each part, the first that a source has.
    lengths, shares, together: see `Order`.
  """

  def __init__(
    self, sources: Mapping[str, Source], shares: Mapping[str, float],
    together: int = 1,
  ):  # fmt: skip
    """shares: of the draws, by source; 0 for one that is not drawn.

    Raises:
      UserError: no share, or more records than an int32 counts.
    """
    drawn = {name: source for name, source in sources.items() if shares[name]}
    if not drawn:
      raise UserError('config.data.sources: none has a weight above 0')
    self._names, self._sources = tuple(drawn), tuple(drawn.values())
    self.lengths = tuple(len(source) for source in self._sources)
    self.shares = tuple(float(shares[name]) for name in drawn)
    self.together = together
    self._starts = (0, *itertools.accumulate(self.lengths))
    if self._starts[-1] > _MOST:
      raise UserError(
        f'config.data.sources: {self._starts[-1]:,} records are more than an '
        'int32 counts: leave some out'
      )
    self.classes = tuple(
      dict.fromkeys(name for s in self._sources for name in s.classes)
    )
    self.names = {}
    self.fields = Fields(*map(_first, zip(
      *(dataclasses.astuple(s.fields) for s in self._sources), strict=True
    )))  # fmt: skip
    place = {name: number for number, name in enumerate(self.classes)}
    self._labels = [[place[n] for n in s.classes] for s in self._sources]

  def __len__(self) -> int:
    return self._starts[-1]

  def __getitem__(self, i: int) -> Record:
    """As the source's record, its label among all, its id 'SOURCE/ID'."""
    which = bisect.bisect_right(self._starts, i) - 1
    record: dict[str, Any] = self._sources[which][i - self._starts[which]]
    label = record['label']
    if label >= 0:
      label = self._labels[which][label]
    return record | {
      'label': label, 'id': f'{self._names[which]}/{record["id"]}'
    }  # fmt: skip


def _first(fields: tuple[str, ...]) -> str:
  return next(filter(None, fields), '')


def order_of(source: Source, seed: int) -> Order:
  """In which order a run reads a source, or a mixture."""
  if isinstance(source, Mixture):
    return Order(source.lengths, seed, source.shares, source.together)
  return Order((len(source),), seed)
