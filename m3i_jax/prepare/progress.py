"""How far `prepare` is, and an early end where most of a source is bad."""

import collections
import sys
from collections.abc import Sequence

import tqdm

from m3i_jax.prepare.writer import Task

ENOUGH = 1000  # records of a split that show what the others are like
MOST = 0.5  # share of bad ones among these that cannot be an accident


class TooManyBad(RuntimeError):
  """A larger share of a split is bad than is let pass; one line says why."""


class Progress:
  """A bar that counts records; parts of unknown size are taken as average."""

  def __init__(self, tasks: Sequence[Task], max_bad: float):
    sizes = [task.part.size for task in tasks]
    self._known, self._unknown = sum(sizes), sizes.count(0)  # of parts to come
    self._records = self._parts = 0  # done
    self._seen: dict[tuple[str, int], int] = {}
    self._split = collections.Counter()  # records, and bad ones, of a split
    self._bad = collections.Counter()
    self._bad_of: dict[tuple[str, int], int] = {}
    self._most = max(MOST, max_bad)
    self._bar = tqdm.tqdm(
      total=self.total,
      unit=' pictures',
      mininterval=0.5 if sys.stderr.isatty() else 30,
    )

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    self._bar.close()

  def told(
    self, task: Task, records: int, bad: int, reason: str, done: bool
  ) -> None:
    """Takes what `crew.write_all` tells of a task.

    Raises:
      TooManyBad: of the first records of a split, more than half are.
    """
    which = task.split, task.number
    more = records - self._seen.get(which, 0)
    self._split[task.split] += more
    self._bad[task.split] += bad - self._bad_of.get(which, 0)
    self._seen[which], self._bad_of[which] = records, bad
    if done:
      self._known -= task.part.size
      self._unknown -= task.part.size == 0
      self._records += records
      self._parts += 1
      self._bar.total = self.total
    self._bar.update(more)
    seen, wrong = self._split[task.split], self._bad[task.split]
    if seen >= ENOUGH and wrong > self._most * seen:
      raise TooManyBad(
        f'{wrong} of the first {seen} records of split {task.split!r} are bad, '
        f'such as: {reason}'
      )

  @property
  def total(self) -> int | None:
    """All records, as far as that can be told."""
    if self._unknown and not self._parts:
      return None
    mean = self._records / max(1, self._parts)
    return round(self._records + self._known + self._unknown * mean)
