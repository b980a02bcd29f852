"""The classes of a source, and a label's index among them."""

import collections
import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw

MOST = 1_000_000  # with more, a column holds no labels
_LONGEST = 4096  # characters, as many as a path has


@dataclasses.dataclass(frozen=True)
class Labels:
  """Names in order; with `numbered`, a label may also be its index."""

  names: tuple[str, ...] = ()
  numbered: bool = False

  @functools.cached_property
  def _indices(self) -> dict[str, int]:
    return {name: i for i, name in enumerate(self.names)}

  @functools.cached_property
  def digest(self) -> str:
    """Another one for other names."""
    told = repr((self.names, self.numbered))
    return hashlib.sha256(told.encode()).hexdigest()

  def __getstate__(self):  # the indices are made again where they are used
    return {'names': self.names, 'numbered': self.numbered}

  def index(self, value: Any) -> int:
    """A label's index; -1 if there is none.

    Raises:
      raw.Unusable: it is not among the names.
    """
    name = tidy(value)
    if name in ('', '-1'):
      return -1
    index = self._indices.get(name, -1)
    if index < 0 and self.numbered and re.fullmatch('[0-9]{1,9}', name):
      index = int(name) if int(name) < len(self.names) else -1
    if index < 0:
      raise raw.Unusable(f'unknown label: {name[:80]!r}')
    return index


def tidy(value: Any) -> str:
  """A label as one line; '' for none. 3.0 is 3, as pandas writes it.

  Raises:
    raw.Unusable: it is a list or the like, infinite, or longer than a path.
  """
  if value is None or value != value:
    return ''
  if isinstance(value, bytes):
    value = value.decode('utf-8', 'replace')
  if not isinstance(value, str | int | float):
    raise raw.Unusable(f'label is no name: of type {type(value).__name__}')
  if value in (math.inf, -math.inf):
    raise raw.Unusable('label is no name: an infinite number')
  name = ' '.join(raw.whole(str(value)).split())
  if len(name) > _LONGEST:
    raise raw.Unusable(f'label is too long: {len(name):,} characters')
  return name[:-2] if re.fullmatch(r'-?\d+\.0', name) else name


def from_file(path: str) -> Labels:
  """The names in a file, one a line.

  Raises:
    UserError: it cannot be read, is empty, or has a name twice.
  """
  try:
    names = tuple(map(tidy, raw.lines(raw.read_file(path), path)))
  except raw.Unusable as error:
    raise UserError(f'--classes={path}: {error}') from error
  if not names:
    raise UserError(f'--classes={path} is empty: write one name a line')
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    raise UserError(f'--classes={path} has {twice[0]!r} more than once')
  return Labels(names, numbered=True)


def found(names: Iterable[str], where: str) -> Labels:
  """Classes of the labels that a first pass has seen.

  Names are sorted. Numbers stay what they are (class i is named 'i') unless
  they are sparse: then only those that occur are classes, in order.

  Raises:
    UserError: there are so many that they can be no labels.
  """
  names = set(names) - {'', '-1'}
  if len(names) > MOST:
    raise UserError(
        f'{where} has more than {MOST:,} different labels: name another '
        'column with --label'
    )
  numbers = sorted({int(name) for name in names if is_number(name)})
  if len(numbers) < len(names):
    return Labels(tuple(sorted(names)))
  if numbers and numbers[-1] < 2 * len(numbers) + 10:
    numbers = range(numbers[-1] + 1)
  return Labels(tuple(map(str, numbers)))


def is_number(name: str) -> bool:
  """Not 007, which is a name."""
  return bool(re.fullmatch(r'0|[1-9][0-9]{0,17}', name))
