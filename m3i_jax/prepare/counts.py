"""What the shards hold, counted; counts of shards can be added up."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from m3i_jax.prepare.examine import Examined
from m3i_jax.prepare.items import Bad

_NAMES = (
  'labels',
  'formats',
  'reasons',
  'captions',  # of a record
  'characters',  # of a caption
  'words',
  'short_sides',  # pixels
  'long_sides',
)


class Counts:
  """How often each value was seen, under each of `_NAMES`.

  Values are kept as str, as JSON has them; sizes and lengths are whole numbers,
  so that medians are exact and small to keep.
  """

  def __init__(self, stored: Mapping[str, Mapping[str, int]] | None = None):
    stored = stored or {}
    self._of = {
      name: collections.Counter(stored.get(name, {})) for name in _NAMES
    }

  def __getitem__(self, name: str) -> dict[str, int]:
    """Sorted by number where the values are numbers, else by name."""
    return dict(sorted(self._of[name].items(), key=lambda of: _order(of[0])))

  def __iadd__(self, other: 'Counts') -> 'Counts':
    for name in _NAMES:
      self._of[name].update(other._of[name])
    return self

  def add(self, record: Examined | Bad) -> None:
    """Counts one more record."""
    if isinstance(record, Bad):
      self._count('reasons', record.reason.partition(':')[0])
      return
    self._count('labels', record.item.label)
    self._count('formats', record.format)
    self._count('captions', len(record.item.captions))
    for text in record.item.captions:
      self._count('characters', len(text))
      self._count('words', len(text.split()))
    self._count('short_sides', min(record.height, record.width))
    self._count('long_sides', max(record.height, record.width))

  def stored(self) -> dict[str, dict[str, int]]:
    return {name: self[name] for name in _NAMES}

  def spread(self, name: str) -> dict[str, float]:
    """Least, mean, median, 95th percentile and most of what was counted."""
    counted = [(int(value), n) for value, n in self[name].items()]
    total = sum(n for _, n in counted)
    if not total:
      return {}
    mean = sum(value * n for value, n in counted) / total
    return {
      'min': counted[0][0],
      'mean': round(mean, 2),
      'median': _ranked(counted, 0.5 * total),
      'p95': _ranked(counted, 0.95 * total),
      'max': counted[-1][0],
    }

  def _count(self, name: str, value: Any) -> None:
    self._of[name][str(value)] += 1


def _ranked(counted: Iterable[tuple[int, int]], rank: float) -> int:
  """The least value that at least `rank` of the sorted ones do not exceed."""
  seen = 0
  for value, n in counted:
    seen += n
    if seen >= rank:
      return value
  raise ValueError(f'{rank} is more than there are')


def _order(value: str) -> tuple[int, str]:
  whole = value.removeprefix('-').isdecimal()
  return (int(value), '') if whole else (0, value)
