"""Which record stands at which position: one endless order, from a seed.

Nothing here has a state, so that a run goes on from a bare position, and every
process sees the same order.
"""

import dataclasses
import functools
import math

import grain
import numpy as np

BLOCK = 10_000  # draws in which the shares of several sources are exact
_STREAM = 3  # of the draws of a mixture; those of a position are below


@dataclasses.dataclass(frozen=True)
class Order:
  """Record by position, of one source or of several that are mixed.

  Each epoch of a source is a new permutation of its records, however often the
  others are through: none starves. In every BLOCK draws each source has its
  share, rounded to a draw (at least one), in an order drawn for that block.

  Attributes:
    lengths: records of each source; their indices follow each other.
    seed: of all.
    shares: how often each source is drawn, in any unit; less than 1e-4 of
      all count as 1e-4.
    together: positions in a row that come from one source: 2 mixes pictures
      with their own kind, the batch size makes batches of one source.
  """

  lengths: tuple[int, ...]
  seed: int
  shares: tuple[float, ...] = (1.0,)
  together: int = 1

  def __getitem__(self, position: int) -> int:
    """The index of the record at a position, from 0."""
    if len(self.lengths) == 1:
      return int(epochs(self.lengths[0], self.seed)[position])
    run, inside = divmod(position, self.together)
    block, slot = divmod(run, BLOCK)
    sources, earlier, counts = _block(self, block)
    source = int(sources[slot])
    drawn = block * counts[source] + int(earlier[slot])
    order = epochs(self.lengths[source], _seed(self.seed, source))
    index = int(order[drawn * self.together + inside])
    return sum(self.lengths[:source]) + index

  def instead(self, index: int, tries: int) -> int:
    """The record to take after so many tries for one; of the same source.

    Far from it and from each other: what is damaged often lies together.
    """
    start = 0
    for length in self.lengths:
      if index < start + length:
        step = stride(length)
        return start + (index - start + tries * step) % length
      start += length
    raise IndexError(index)


@functools.lru_cache(maxsize=64)
def epochs(length: int, seed: int) -> grain.MapDataset:
  """Record index by position: each epoch is a new permutation of `length`."""
  return grain.MapDataset.range(length).seed(seed).shuffle().repeat()


@functools.lru_cache(maxsize=64)
def stride(length: int) -> int:
  """A step whose multiples spread over 0 .. length - 1, and meet all of it."""
  step = max(1, round(length * (math.sqrt(5) - 1) / 2))  # golden ratio
  while math.gcd(step, length) > 1:
    step += 1
  return step


def counted(shares: tuple[float, ...]) -> list[int]:
  """Draws of each source in a BLOCK: the largest remainders are rounded up."""
  exact = BLOCK * np.array(shares) / sum(shares)
  counts = np.maximum(np.floor(exact), exact > 0).astype(int)
  order = np.argsort(counts - exact, kind='stable')
  while (short := BLOCK - counts.sum()) > 0:
    counts[order[:short]] += 1
  counts[counts.argmax()] += short  # where many were rounded up to one
  return counts.tolist()


@functools.lru_cache(maxsize=64)
def _block(order: Order, number: int) -> tuple[np.ndarray, np.ndarray, list]:
  """(source of each draw, how many of it came before in the block, counts)."""
  counts = counted(order.shares)
  sources = np.repeat(np.arange(len(counts)), counts)
  np.random.default_rng((order.seed, number, _STREAM)).shuffle(sources)
  earlier = np.empty(BLOCK, int)
  for source, count in enumerate(counts):
    earlier[sources == source] = np.arange(count)
  return sources, earlier, counts


def _seed(seed: int, source: int) -> int:
  """Each source has its own; the first one has the run's."""
  if not source:
    return seed
  return int(np.random.SeedSequence((seed, source)).generate_state(1)[0])
