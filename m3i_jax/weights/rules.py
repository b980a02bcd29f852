"""Official names <-> our tree: one engine that runs a family's rules both ways.

A family is data. Its rules say under which official names a parameter is
stored, of which shape in letters, and where it stands in our tree.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from m3i_jax.errors import UserError
from m3i_jax.weights.layouts import Layout

Arrays = dict[str, np.ndarray]
LAYER = '{n}'


class Rule(NamedTuple):
  """One parameter, of every layer if its names have a '{n}'.

  Attributes:
    names: official, without the family's prefix; several are joined.
    paths: in our tree, with '/'; the layers are stacked along a first axis.
    shapes: of the official arrays, in letters: '3D D', 'C0 3 p p', ''.
    group: '' if every net has it, else the part that a net has or has not.
  """

  names: tuple[str, ...]
  paths: tuple[str, ...]
  shapes: tuple[str, ...]
  layout: Layout
  group: str = ''

  @property
  def stack(self) -> str:
    """What names of all layers begin with; '' for what is no layer's."""
    before, layered, _ = self.names[0].partition(LAYER)
    return before if layered else ''

  def layers(self, depths: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The official names, layer by layer."""
    count = depths.get(self.stack, 1) if self.stack else 1
    return [tuple(x.format(n=n) for x in self.names) for n in range(count)]


class Net(NamedTuple):
  """What the names and shapes of a file say.

  Attributes:
    keys: official name without prefix -> key in the file.
    absent, unexpected, left_out: keys.
    groups: the parts that the net has, '' among them.
    depths: layers of each stack.
    sizes: what the letters are; `checks.problems` fills it.
  """

  keys: dict[str, str]
  absent: list[str]
  unexpected: list[str]
  left_out: list[str]
  groups: frozenset[str]
  depths: dict[str, int]
  sizes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Family:
  """The nets of one project, as data.

  Attributes:
    rules: of all parameters that one of its nets has.
    model: (net, given) -> fields of config.model.
    prefix: of all names but those that begin with one of `outside`; accepted
      with and without.
    prefixed: groups with one of which the prefix is written; ('',): always.
    left_out: regular expressions of keys that are known and no part of it.
    old: (regular expression, replacement) of names of former versions.
    needs: (group, groups): a net that has the one has one of the others, if
      it does not say so the first.
    table: names of the table of positions of a square grid, and of the class
      token that has a row of it if it is there.
    spare_row: the table may have that row without the token.
    adopt, release: changes of our flat tree when read, and before written.
    dropped: regular expressions of our paths that its nets do without.
  """

  name: str
  rules: tuple[Rule, ...]
  model: Callable[[Net, Mapping[str, Any]], dict[str, Any]]
  prefix: str = ''
  outside: tuple[str, ...] = ()
  prefixed: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()
  old: tuple[tuple[str, str], ...] = ()
  needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
  table: tuple[str, ...] = ()
  spare_row: bool = False
  adopt: Callable[[Arrays], Arrays] = dict
  release: Callable[[Arrays], Arrays] = dict
  dropped: tuple[str, ...] = ()

  def key(self, name: str, prefix: bool) -> str:
    """A name with the prefix, where it has one."""
    return self.prefix + name if prefix and not self._outside(name) else name

  def name_of(self, key: str, prefix: bool) -> str:
    """The name of a key as of today; '' if it lacks the prefix."""
    for old, new in self.old:
      key = re.sub(old, new, key)
    if not prefix or self._outside(key):
      return key
    return key.removeprefix(self.prefix) if key.startswith(self.prefix) else ''

  def parts(self, groups: Iterable[str]) -> frozenset[str]:
    """`groups`, and what they need."""
    groups = {'', *groups}
    for group, others in self.needs:
      if group in groups and not groups & set(others):
        groups.add(others[0])
    return frozenset(groups)

  def chosen(self, groups: Iterable[str]) -> Iterator[Rule]:
    """The rules of these groups."""
    return (rule for rule in self.rules if rule.group in groups)

  def _outside(self, name: str) -> bool:
    return name.startswith(self.outside)


def read(family: Family, keys: Iterable[str]) -> Net:
  """What the keys alone say."""
  keys = list(map(str, keys))
  named = [(name, rule) for rule in family.rules for name in rule.names]
  pattern = _pattern(name for name, _ in named)
  left = re.compile('|'.join(family.left_out) or '(?!)')
  prefix = bool(family.prefix) and any(
    key.startswith(family.prefix) for key in keys
  )
  found, left_out, unexpected = {}, [], []
  depths, groups = collections.Counter(), set()
  for key in keys:
    name = family.name_of(key, prefix)
    match = pattern.fullmatch(name)
    if not match or name in found:
      (left_out if left.match(key) else unexpected).append(key)
      continue
    found[name], rule = key, named[match.lastindex - 1][1]
    groups.add(rule.group)
    if rule.stack:
      layer = int(name.removeprefix(rule.stack).split('.')[0])
      depths[rule.stack] = max(depths[rule.stack], layer + 1)
  groups = family.parts(groups)
  absent = [
    family.key(name, prefix)
    for rule in family.chosen(groups)
    for names in rule.layers(depths)
    for name in names
    if name not in found
  ]
  return Net(found, absent, unexpected, left_out, groups, dict(depths), {})


def _pattern(names: Iterable[str]) -> re.Pattern:
  """Matches what any of the names means; `lastindex` says which one, from 1."""
  # Few digits: a net has as many layers as its names say.
  layer = re.escape(LAYER), '(?:0|[1-9][0-9]{0,3})'
  each = (re.escape(name).replace(*layer) for name in names)
  return re.compile('|'.join(f'({name})' for name in each))


def float32(x: Any) -> np.ndarray:
  """As parameters are kept; what is out of range becomes infinite."""
  with np.errstate(over='ignore'):
    return np.asarray(x).astype(np.float32, copy=False)


def load(family: Family, arrays: Mapping[str, Any], net: Net) -> Arrays:
  """Our flat tree of arrays without problems, float32."""
  flat = {}
  for rule in family.chosen(net.groups):
    layers = rule.layers(net.depths)
    for n, names in enumerate(layers):
      official = (float32(arrays[net.keys[name]]) for name in names)
      for path, x in zip(rule.paths, rule.layout.load(*official), strict=True):
        if path not in flat:
          stack = (len(layers),) if rule.stack else ()
          flat[path] = np.empty(stack + x.shape, np.float32)
        flat[path][n if rule.stack else ...] = x
  return family.adopt(flat)


def dump(family: Family, flat: Mapping[str, Any]) -> Arrays:
  """The arrays of our flat tree under their official keys.

  Raises:
    UserError: the family has no place for a parameter, or lacks one.
  """
  flat = family.release({path: np.asarray(x) for path, x in flat.items()})
  groups = {
    rule.group for rule in family.rules if any(x in flat for x in rule.paths)
  }
  groups = family.parts(groups)
  prefix = bool(groups & set(family.prefixed))
  arrays, known = {}, set()
  for rule in family.chosen(groups):
    known.update(rule.paths)
    names = ', '.join(family.key(name, prefix) for name in rule.names)
    for path in rule.paths:
      if path not in flat:
        raise UserError(f'{family.name}: {names} is missing: give {path}')
    for name, x in _official(family, rule, [flat[x] for x in rule.paths]):
      arrays[family.key(name, prefix)] = x
  known.update(dropped(family, flat))
  beside = [path for path in flat if path not in known]
  if beside:
    raise UserError(
      f'{family.name} has no place for {beside[0]}{more(beside)}: leave it out'
    )
  return arrays


def _official(
  family: Family, rule: Rule, ours: list[np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
  """(official name, array) of one rule's parameters."""
  rank = rule.layout.rank + bool(rule.stack)
  for path, x in zip(rule.paths, ours, strict=True):
    if x.ndim != rank:
      raise UserError(
        f'{family.name}: {path} is of shape {x.shape}, wanted are {rank} axes'
      )
  depth = {rule.stack: len(ours[0])} if rule.stack else {}
  for n, names in enumerate(rule.layers(depth)):
    layer = [x[n] for x in ours] if rule.stack else ours
    try:
      official = rule.layout.dump(*layer)
    except ValueError as error:
      raise UserError(f'{family.name}: {rule.paths[0]}: {error}') from error
    for name, x in zip(names, official, strict=True):
      yield name, np.array(x, order='C')


def dropped(family: Family, flat: Iterable[str]) -> list[str]:
  """Our paths that the family's nets do without."""
  pattern = re.compile('|'.join(family.dropped) or '(?!)')
  known = {path for rule in family.rules for path in rule.paths}
  return [x for x in flat if x not in known and pattern.match(x)]


def more(lines: list) -> str:
  """' (2 more)'."""
  return f' ({len(lines) - 1} more)' if len(lines) > 1 else ''
