"""Specs: a kind, such as 'gaussian', or a mapping with `kind` and fields."""

import dataclasses
import difflib
import numbers
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args, get_origin

from m3i_jax.errors import UserError

TYPES = {
  float: (numbers.Real, 'a number'),
  int: (numbers.Integral, 'a whole number'),
  bool: (bool, 'True or False'),
  str: (str, 'a string'),
  float | None: ((numbers.Real, NoneType), 'a number'),
  str | None: ((str, NoneType), 'a string'),
}
# What a number may be, by the name of its field, whatever part has it.
RULES = (
  ('at least 1', lambda x: x >= 1, (
    'width', 'depth', 'heads', 'hidden', 'patch', 'out', 'count', 'block',
    'depth_uni', 'depth_multi', 'unroll', 'k',
  )),
  ('more than 0', lambda x: x > 0, (
    'temperature', 'gamma', 'eps', 'trust', 'layer_decay',
  )),
  ('at least 0', lambda x: x >= 0, (
    'projector', 'cosine', 'weight', 'value', 'clip', 'learning_rate',
    'weight_decay',
  )),
  ('from 0 to 1', lambda x: 0 <= x <= 1, (
    'smoothing', 'momentum', 'decay', 'start', 'end', 'flip', 'jitter', 'gray',
    'blur', 'solarize', 'tags_probability',
  )),
  ('at least 0 and less than 1', lambda x: 0 <= x < 1, (
    'drop_path', 'warmup', 'b1', 'b2',
  )),
)  # fmt: skip


def make(cls, fields: Mapping[str, Any], where: str, known: Mapping = {}):  # noqa: B006
  """cls(**fields), with what cls takes of `known` where fields are silent.

  Raises:
    UserError: a field that cls does not have, with the nearest that it has; a
      value of another type, or beyond its bounds.
  """
  names = {
    f.name: f.type
    for f in dataclasses.fields(cls)
    if f.init and f.name not in ('parent', 'name')
  }
  for key in fields:
    if key not in names:
      near = difflib.get_close_matches(key, names, 1)
      hint = f'did you mean {near[0]!r}?' if near else f'it has {list(names)}'
      raise UserError(f'{where} has no key {key!r}: {hint}')
    if told := _unlike(fields[key], names[key]):
      raise UserError(f'{where}.{key}={fields[key]!r}: it must be {told}')
  fields = {k: v for k, v in known.items() if k in names} | {
    k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
  }
  missing = [
    f.name
    for f in dataclasses.fields(cls)
    if f.name in names
    and f.name not in fields
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise UserError(f'{where}.{missing[0]} is missing')
  bounded(fields, where)
  return cls(**fields)


def bounded(fields: Mapping[str, Any], where: str) -> None:
  """Raises UserError for a number, or one of a tuple, that breaks its rule."""
  for told, rule, names in RULES:
    for name in names:
      value = fields.get(name, ())
      for x in value if isinstance(value, tuple | list) else (value,):
        if isinstance(x, numbers.Real) and not rule(x):
          raise UserError(f'{where}.{name}={value}: it must be {told}')


def _unlike(value, kind) -> str:
  """What a value must be by its annotation; '' if it is, or of other kinds."""
  if get_origin(kind) is tuple:
    if not isinstance(value, tuple | list):
      return 'a tuple'
    told = {_unlike(x, get_args(kind)[0]) for x in value} - {''}
    return f'a tuple, each {told.pop()}' if told else ''
  accepted, told = TYPES.get(kind, (object, ''))
  if isinstance(value, bool) and kind in (float, int, float | None):
    return told
  return '' if isinstance(value, accepted) else told


def choose(kinds: Mapping[str, type], spec, where: str, known: Mapping = {}):  # noqa: B006
  """The object that a spec names: 'kind' or {kind=..., field=...}."""
  spec = dict(normal(spec, where))
  kind = spec.pop('kind')
  if kind not in kinds:
    near = difflib.get_close_matches(str(kind), kinds, 1)
    hint = f'did you mean {near[0]!r}?' if near else ''
    raise UserError(
      f'{where}: no kind {kind!r}, choose from {", ".join(kinds)}. {hint}'
    )
  return make(kinds[kind], spec, where, known)


def normal(spec, where: str) -> Mapping[str, Any]:
  """A spec as a mapping with `kind`."""
  if isinstance(spec, str):
    return {'kind': spec}
  if not hasattr(spec, 'keys'):
    raise UserError(f'{where}={spec!r}: give a kind, or a dict that has one')
  if 'kind' not in spec:
    raise UserError(f'{where}.kind is missing')
  return spec


def one_of(value: str, choices: tuple[str, ...], where: str) -> None:
  """Raises UserError if a value is none of the choices."""
  if value not in choices:
    raise UserError(f'{where}={value!r}: choose from {", ".join(choices)}')


def divides(part: int, whole: int, where: str) -> None:
  """Raises UserError if a width cannot be split so."""
  if whole % part:
    raise UserError(
      f'{where}={part} does not divide the width {whole}: choose a divisor'
    )
