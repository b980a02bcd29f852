"""Parts that need no source: pictures drawn from a seed, some of them bad."""

import dataclasses
import io
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Bad, Item, Layout

CLASSES = ('cat', 'dog', 'eel')


def picture(seed: int, encoding: str = 'PNG', size=(24, 16), **save) -> bytes:
  """A file with a picture of noise, its `size` (width, height) in pixels."""
  width, height = size
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
  file = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(file, encoding, **save)
  return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Drawn:
  """`size` items; every seventh cannot be read, every eleventh is Bad."""

  key: str
  size: int
  fingerprint: str = 'as drawn'
  delay: float = 0.0

  def __iter__(self) -> Iterator[Item | Bad]:
    for i in range(self.size):
      time.sleep(self.delay)
      name, seed = f'{self.key}/{i}', 1000 * int(self.key) + i
      if i % 11 == 10:
        yield Bad(name, f'no picture: record {i}')
      elif i % 7 == 6:
        yield Item(name, picture(seed)[:200])
      else:
        captions = tuple(f'caption {k} of {name}' for k in range(i % 3))
        yield Item(name, picture(seed), seed % 4 - 1, captions)


@dataclasses.dataclass(frozen=True)
class Deadly(Drawn):
  """Kills the process that reads it, as a lack of memory would."""

  def __iter__(self) -> Iterator[Item | Bad]:
    for i, record in enumerate(super().__iter__(), 1):
      if i == 20:
        os.kill(os.getpid(), signal.SIGKILL)
      yield record


@dataclasses.dataclass(frozen=True)
class Fixed:
  """The records that it is given."""

  key: str
  records: tuple[Item | Bad, ...]
  fingerprint: str = 'fixed'

  @property
  def size(self) -> int:
    return len(self.records)

  def __iter__(self) -> Iterator[Item | Bad]:
    return iter(self.records)


@dataclasses.dataclass(frozen=True)
class Wrong(Drawn):
  """Is found to be a user's mistake only when it is read."""

  def __iter__(self) -> Iterator[Item | Bad]:
    raise UserError('row 7 has no column')


@dataclasses.dataclass(frozen=True)
class Broken(Drawn):
  """Has no picture at all."""

  def __iter__(self) -> Iterator[Item | Bad]:
    return (Bad(str(i), 'no field: jpg') for i in range(self.size))


def layout(**splits) -> Layout:
  """A layout of these parts, with labels and captions."""
  return Layout('drawn', splits, CLASSES, True, 'pictures that were drawn')


def drawn(delay: float = 0.0) -> Layout:
  """Two splits: 20 + 9 + 13 records, and 8."""
  sizes = (20, 9, 13, 8)
  all = [Drawn(str(i), size, delay=delay) for i, size in enumerate(sizes)]
  return layout(train=all[:3], test=all[3:])


NAMED = {
  'drawn': lambda: drawn(float(os.environ.get('M3I_DRAWN_DELAY', 0))),
  'deadly': lambda: layout(train=[Drawn('0', 20), Deadly('1', 40)]),
  'wrong': lambda: layout(train=[Drawn('0', 20), Wrong('1', 5)]),
  'broken': lambda: layout(train=[Broken('0', 3000)]),
}
