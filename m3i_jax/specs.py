"""Specs: a kind, such as 'gaussian', or a mapping with `kind` and fields."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from m3i_jax.errors import UserError


def make(cls, fields: Mapping[str, Any], where: str, known: Mapping = {}):  # noqa: B006
  """cls(**fields), with what cls takes of `known` where fields are silent.

  Raises:
    UserError: a field that cls does not have, with the nearest that it has.
  """
  names = [
    f.name
    for f in dataclasses.fields(cls)
    if f.init and f.name not in ('parent', 'name')
  ]
  for key in fields:
    if key not in names:
      near = difflib.get_close_matches(key, names, 1)
      hint = f'did you mean {near[0]!r}?' if near else f'it has {names}'
      raise UserError(f'{where} has no key {key!r}: {hint}')
  fields = {k: v for k, v in known.items() if k in names} | dict(fields)
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
  return cls(**fields)


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
