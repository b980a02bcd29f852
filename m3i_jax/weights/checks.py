"""What does not fit between a family's rules and a file's arrays.

What the letters of the shapes are is read off all arrays together: an array
that disagrees with most others is the wrong one.
"""

import collections
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.errors import UserError
from m3i_jax.models import layers
from m3i_jax.weights.rules import Family, Net, float32


def _number(x: Any) -> bool:
  return type(x) in (int, float) and math.isfinite(x)


def _blocks(x: Any) -> bool:
  ids = x if isinstance(x, list | tuple) else ()
  whole = all(type(n) is int and n >= 0 for n in ids)
  return x is None or bool(ids) and whole and len(set(ids)) == len(ids)


# Fields that are given: what they must be.
VALUES = {
  'heads': (lambda x: type(x) is int and x > 0, 'a whole number'),
  'eps': (lambda x: _number(x) and x > 0, 'a positive number'),
  'offset_scale': (lambda x: _number(x) and x > 0, 'a positive number'),
  'layer_scale': (lambda x: x is None or _number(x), 'a number'),
  'post_norm': (lambda x: type(x) is bool, 'true or false'),
  'level2_post_norm_block_ids': (_blocks, 'a list of blocks, such as [5, 11]'),
  'activation': (
    lambda x: x in tuple(layers.ACTIVATIONS),
    f'one of {", ".join(layers.ACTIVATIONS)}',
  ),
}
# Fields that shapes tell for certain.
SIZES = (
  'name', 'width', 'depth', 'hidden', 'patch', 'vocabulary', 'channels',
  'depths', 'groups', 'dims', 'dw_kernel_size',
)  # fmt: skip


def values(given: Mapping[str, Any]) -> None:
  """Raises UserError for a field that no net has so."""
  for name, (right, wanted) in VALUES.items():
    if name in given and not right(given[name]):
      raise UserError(f'{name}={given[name]!r}: {wanted} is wanted')


def sizes(model: Mapping[str, Any], given: Mapping[str, Any]) -> None:
  """Raises UserError for a field that is given and told otherwise by shapes."""
  for name in SIZES:
    if name not in given or name not in model:
      continue
    x, told = given[name], model[name]
    if (tuple(x) if isinstance(x, list) else x) != told:
      raise UserError(f'{name}={x!r} is given, and the shapes tell {told!r}')


def problems(
  family: Family, arrays: Mapping[str, Any], net: Net, finite: bool = True
) -> list[str]:
  """One line on each key that does not fit; fills `net.sizes`."""
  lines = [f'{key} is missing' for key in net.absent]
  lines += [f'{key} is unexpected' for key in net.unexpected]
  lines += [
    line for key in net.keys.values() if (line := _no_number(key, arrays[key]))
  ]
  if lines:
    return lines
  letters = {
    name: shape.split()
    for rule in family.chosen(net.groups)
    for names in rule.layers(net.depths)
    for name, shape in zip(names, rule.shapes, strict=True)
  }
  shapes = {name: arrays[net.keys[name]].shape for name in letters}
  net.sizes.update(_sizes(shapes, letters))
  for name, shape in shapes.items():
    wanted = tuple(_value(term, net.sizes) for term in letters[name])
    if shape != wanted:
      text = str(wanted).replace("'", '')  # letters that nobody else tells
      lines.append(f'{net.keys[name]} is of shape {shape}, wanted is {text}')
  lines += _off_grid(family, net)
  return lines + [
    f'{key} has values that are not finite'
    for key in net.keys.values()
    if finite and not np.isfinite(float32(arrays[key])).all()
  ]


def _no_number(key: str, x: Any) -> str:
  """What is wrong with an entry that is no array of real numbers."""
  if not isinstance(x, np.ndarray | np.generic | jax.Array):
    return f'{key} is a {type(x).__name__}, wanted is a NumPy array'
  counts = key.endswith('num_batches_tracked')
  kind = jnp.number if counts else jnp.floating
  if not jnp.issubdtype(x.dtype, kind):
    return f'{key} is of dtype {x.dtype}, wanted are floating numbers'
  return ''


def _term(term: str) -> tuple[int, str]:
  """'3D' -> (3, 'D'); '3' -> (3, '')."""
  factor, letter = re.fullmatch('([0-9]*)(.*)', term).groups()
  return int(factor or 1), letter


def _value(term: str, sizes: Mapping[str, int]) -> int | str:
  factor, letter = _term(term)
  if not letter:
    return factor
  return factor * sizes[letter] if letter in sizes else term


def _sizes(shapes: Mapping, letters: Mapping) -> dict[str, int]:
  """What most arrays say that each letter is, the first of equals."""
  votes = collections.defaultdict(collections.Counter)
  for name, terms in letters.items():
    if len(terms) != len(shapes[name]):
      continue
    for term, size in zip(terms, shapes[name], strict=True):
      factor, letter = _term(term)
      if letter and size and size % factor == 0:
        votes[letter][size // factor] += 1
  return {letter: vote.most_common(1)[0][0] for letter, vote in votes.items()}


def _off_grid(family: Family, net: Net) -> list[str]:
  """What is wrong with the number of positions."""
  if not family.table or 'L' not in net.sizes:
    return []
  table, token = family.table
  rows, key = net.sizes['L'], net.keys[table]
  square = lambda n: n > 0 and round(n**0.5) ** 2 == n
  if square(rows - (token in net.keys)):
    return []
  if square(rows - 1) and token not in net.keys and token:
    missing = f'{token} is missing: {key} has a row for it'
    return [] if family.spare_row else [missing]
  return [f'{key} has {rows} rows, wanted are those of a square grid']
