"""A share of a source with one split, by the bytes of its pictures."""

import dataclasses
import hashlib
from collections.abc import Iterator

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Bad, Item, Layout, Part

HELD_OUT = 'test'


@dataclasses.dataclass(frozen=True)
class Share:
  """The records of a part whose hash is below `share`, or those that are not.

  Copies of a picture have one hash, so that they are on one side.
  """

  part: Part
  share: float
  held_out: bool

  @property
  def key(self) -> str:
    return self.part.key

  @property
  def size(self) -> int:
    """About how many there are."""
    share = self.share if self.held_out else 1 - self.share
    return round(self.part.size * share)

  @property
  def fingerprint(self) -> str:
    return self.part.fingerprint

  def __iter__(self) -> Iterator[Item | Bad]:
    for record in self.part:
      if (_place(record) < self.share) == self.held_out:
        yield record


def hold_out(layout: Layout, share: float) -> Layout:
  """The layout with the split HELD_OUT beside its one.

  Raises:
    UserError: it has several splits, or that one, or the share is none.
  """
  if not 0 < share < 1:
    raise UserError(f'--holdout={share:g}: it must be above 0 and below 1')
  if len(layout.splits) > 1 or HELD_OUT in layout.splits:
    raise UserError(
      f'--holdout={share:g} is for a source with one split that is not '
      f'{HELD_OUT!r}: this one has {", ".join(layout.splits)}'
    )
  ((split, parts),) = layout.splits.items()
  splits = {
    name: [Share(part, share, name == HELD_OUT) for part in parts]
    for name in (split, HELD_OUT)
  }
  told = f'{layout.told}; {share:.3g} of it held out as {HELD_OUT!r}'
  return dataclasses.replace(layout, splits=splits, told=told)


def _place(record: Item | Bad) -> float:
  """In [0, 1), the same for equal pictures."""
  told = record.id.encode() if isinstance(record, Bad) else record.image
  digest = hashlib.sha256(b'held out:' + told).digest()
  return int.from_bytes(digest[:8], 'big') / 2**64
