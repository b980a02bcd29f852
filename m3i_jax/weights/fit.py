"""Which subtrees of one tree fit into another."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from m3i_jax.errors import UserError

Tree = Mapping[str, Any]

# What an encoder, or a tower, cannot do without.
BODY = re.compile(r'patch_embed|blocks|stem|stages_\d+|levels_\d+')


@dataclasses.dataclass(frozen=True)
class Row:
  """What became of one subtree.

  Attributes:
    name: of the subtree.
    state: 'loaded', 'reshaped', 'fresh' or 'left out'.
    size: how many numbers it has.
    why: a reason, '' for what is loaded.
  """

  name: str
  state: str
  size: int
  why: str = ''


def fit(
  found: Tree, wanted: Tree, where: str, prefix: str
) -> tuple[dict, list[Row]]:
  """`wanted` with each subtree that `found` has in the same shapes.

  Raises:
    UserError: a part of the body (see BODY) is absent or of another shape.
  """
  new, rows = dict(wanted), []
  for name in sorted(set(found) | set(wanted)):
    have = flat({name: found[name]} if name in found else {})
    want = flat({name: wanted[name]} if name in wanted else {})
    odd = differ(have, want)
    told = f'{prefix}/{name}'
    if not odd:
      new[name] = found[name]
      rows.append(Row(told, 'loaded', size(want)))
    elif BODY.fullmatch(name):
      raise UserError(f'{where} does not fit this config: {prefix}/{odd}')
    elif not want:
      rows.append(Row(told, 'left out', size(have), 'this config has none'))
    else:
      why = odd if have else 'the file has none'
      rows.append(Row(told, 'fresh', size(want), why))
  return new, rows


def table(rows: Sequence[Row]) -> str:
  """The rows as text, a line each."""
  width = max(len(row.name) for row in rows)
  return '\n'.join(
    f'{row.state:>8}  {row.name:<{width}}  {row.size / 1e6:9.3f} M  {row.why}'
    .rstrip()
    for row in rows
  )  # fmt: skip


def differ(have: Mapping, want: Mapping) -> str:
  """The first leaf of which two flat trees have another shape; '' if none."""
  for path in sorted(set(have) | set(want)):
    there, here = (
      tuple(side[path].shape) if path in side else 'absent'
      for side in (have, want)
    )
    if there != here:
      return f'{path} is {there} there and {here} here'
  return ''


def flat(tree: Tree) -> dict[str, Any]:
  """{path with '/': leaf}."""
  return traverse_util.flatten_dict(dict(tree), sep='/')


def size(flat: Mapping) -> int:
  """How many numbers a flat tree has."""
  return sum(int(np.prod(x.shape)) for x in flat.values())
