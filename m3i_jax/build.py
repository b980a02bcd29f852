"""From a config to the objects of the core; below this file goes no config.

A spec is a kind, such as 'gaussian', or a mapping with `kind` and the fields of
the class that the kind names.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from m3i_jax import models, objective
from m3i_jax.augment import Colour
from m3i_jax.balance import BALANCES
from m3i_jax.data.pipeline import Crop
from m3i_jax.decoders import DECODERS
from m3i_jax.distributions import DISTRIBUTIONS
from m3i_jax.errors import UserError
from m3i_jax.evals import EVALUATORS
from m3i_jax.inputs import Input
from m3i_jax.models import layers, text
from m3i_jax.optim import Optimizer
from m3i_jax.regularizers import REGULARIZERS
from m3i_jax.representations import REPRESENTATIONS

PREDICTORS = {'layer_norm': layers.LayerNorm}
_SIZES = ('width', 'depth', 'heads', 'hidden', 'patch')


def encoder(config: ConfigDict):
  """f_theta."""
  fields = {k: v for k, v in config.model.items() if v or k not in _SIZES}
  name, variant = fields.pop('name'), fields.pop('variant')
  fields['dtype'] = _dtype(fields['dtype'])
  if fields['remat'] not in layers.REMAT:
    raise UserError(
      f'config.model.remat={fields["remat"]!r}: choose from '
      f'{", ".join(layers.REMAT)}'
    )
  missing = [size for size in _SIZES if not variant and size not in fields]
  if missing:
    raise UserError(
      f'config.model.{missing[0]} is missing: give it, or config.model.variant'
    )
  backbone = models.backbone(name, variant, **fields)
  if config.image_size % backbone.patch:
    raise UserError(
      f'config.image_size={config.image_size} is no multiple of the patch '
      f'side {backbone.patch}: choose another size or config.model.patch'
    )
  if backbone.width % backbone.heads:
    raise UserError(
      f'config.model.width={backbone.width} is no multiple of '
      f'heads={backbone.heads}'
    )
  return backbone


def build(
  config: ConfigDict, classes: int = 0, vocabulary: int = 0
) -> objective.Objective:
  """The objective that the config describes.

  Args:
    classes: C, how many labels the data have; 0 for none.
    vocabulary: V of the tokenizer; 0 for none.
  Raises:
    UserError: unknown keys or kinds, widths that do not fit, targets whose
      field the data lack.
  """
  theta = encoder(config)
  inherited = dict(
    dtype=theta.dtype, unroll=config.model.unroll, remat=config.model.remat
  )
  input_ = make(Input, config.input, 'config.input')
  input_.owned((config.image_size // theta.patch) ** 2)
  specs = {
    name: _spec(spec, f'config.decoders.{name}')
    for name, spec in config.decoders.items()
  }
  # What a decoder's output must be as wide as; the pools say it themselves.
  widths = {
    name: spec.get('out', 0 if spec['kind'] == 'dense' else theta.width)
    for name, spec in specs.items()
  }
  given = inherited | dict(
    classes=classes,
    vocabulary=vocabulary,
    text_length=config.data.text_length,
  )
  targets = {}
  for name, row in config.targets.items():
    where = f'config.targets.{name}'
    targets[name] = _target(row, where, widths, theta, given)
    _check_target(targets[name], input_, where)
  decoders = {
    name: choose(
      DECODERS, dict(spec) | {'out': widths[name]}, f'config.decoders.{name}',
      inherited,
    )
    for name, spec in specs.items()
  }  # fmt: skip
  return objective.Objective(
    input=input_,
    encoder=theta,
    decoders=decoders,
    targets=targets,
    colours={name: _part(Colour, v) for name, v in config.views.items()},
    balance=choose(BALANCES, config.balance, 'config.balance'),
  )


def optimizer(config: ConfigDict) -> Optimizer:
  """Table 7's optimizer."""
  return make(Optimizer, config.optimizer, 'config.optimizer')


def crops(config: ConfigDict, letters: tuple[str, ...]) -> dict[str, Crop]:
  """The host's part of the views that are used."""
  return {
    name: _part(Crop, dict(config.views[name]) | {'size': config.image_size})
    for name in letters
  }


def evaluators(config: ConfigDict) -> dict[str, Any]:
  """The evaluators by name."""
  return {
    name: choose(EVALUATORS, spec, f'config.evals.{name}')
    for name, spec in config.evals.items()
  }


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
  spec = dict(_spec(spec, where))
  kind = spec.pop('kind')
  if kind not in kinds:
    near = difflib.get_close_matches(str(kind), kinds, 1)
    hint = f'did you mean {near[0]!r}?' if near else ''
    raise UserError(
      f'{where}: no kind {kind!r}, choose from {", ".join(kinds)}. {hint}'
    )
  return make(kinds[kind], spec, where, known)


def _target(row, where, widths, theta, given) -> objective.Target:
  """One row; sets the width of a dense decoder that has none yet."""
  row = dict(row)
  for key in ('of', 'representation', 'decoder', 'distribution'):
    if key not in row:
      raise UserError(f'{where}.{key} is missing')
  decoder = row['decoder']
  if decoder not in widths:
    raise UserError(
      f'{where}.decoder={decoder!r} is not in config.decoders: choose from '
      f'{", ".join(widths)}'
    )
  spec = dict(_spec(row['representation'], f'{where}.representation'))
  if variant := spec.pop('variant', ''):
    spec = _text_sizes(variant, where) | spec
  width = theta.width if spec['kind'] == 'dense' else widths[decoder]
  known = given | dict(width=width, patch=theta.patch)
  z = choose(REPRESENTATIONS, spec, f'{where}.representation', known)
  if z.reads in ('label', 'text') and not (
    z.classes if z.reads == 'label' else z.vocabulary
  ):
    raise UserError(
      f'{where} predicts the {z.reads}: name its field in '
      f'config.data.{z.reads}'
    )
  if z.reads == 'text' and given['text_length'] > z.positions:
    raise UserError(
      f'config.data.text_length={given["text_length"]} is more than the '
      f'{z.positions} positions of {where}: lower it, or raise '
      'representation.positions'
    )
  if (widths[decoder] or z.width) != z.width:
    raise UserError(
      f'{where}: the representation is {z.width} wide, but '
      f'config.decoders.{decoder} predicts {widths[decoder]}: make them equal, '
      'or add a decoder'
    )
  widths[decoder] = z.width
  made = dict(
    representation=z,
    distribution=choose(
      DISTRIBUTIONS, row['distribution'], f'{where}.distribution'
    ),
    regularizer=choose(
      REGULARIZERS, row.get('regularizer', 'none'), f'{where}.regularizer'
    ),
    components=tuple(row.get('components', (0,))),
  )
  if row.get('predictor'):
    made['predictor'] = choose(
      PREDICTORS, row['predictor'], f'{where}.predictor'
    )
  return make(objective.Target, row | made, where)


def _spec(spec, where: str) -> Mapping[str, Any]:
  if isinstance(spec, str):
    return {'kind': spec}
  if 'kind' not in spec:
    raise UserError(f'{where}.kind is missing')
  return spec


def _text_sizes(name: str, where: str) -> dict[str, int]:
  if name not in text.VARIANTS:
    raise UserError(
      f'{where}.representation.variant={name!r}: choose from '
      f'{", ".join(text.VARIANTS)}'
    )
  sizes = ('width', 'depth', 'heads', 'hidden')
  return dict(zip(sizes, text.VARIANTS[name], strict=True))


def _part(cls, fields: Mapping[str, Any]):
  """A dataclass from the fields of a view that are its own."""
  names = {f.name for f in dataclasses.fields(cls)}
  return cls(**{k: v for k, v in fields.items() if k in names})


def _dtype(name: str):
  if name not in ('float32', 'bfloat16', 'mixed'):
    raise UserError(
      f"config.model.dtype={name!r}: choose 'float32', 'bfloat16' or 'mixed'"
    )
  return name if name == 'mixed' else jnp.dtype(name)


def _check_target(target: objective.Target, input_: Input, where: str) -> None:
  reads = target.representation.reads
  dense = reads in ('pixels', 'features')
  if dense != (target.of in ('a', 'b')) or (
    not dense and target.of != reads
  ):
    raise UserError(
      f'{where}.of={target.of!r} does not fit a representation of '
      f'{"a view" if dense else "the " + reads}'
    )
  if max(target.components) >= input_.images:
    raise UserError(
      f'{where}.components={target.components}: config.input.images='
      f'{input_.images}'
    )
  if target.cells == 'hidden' and not input_.mask:
    raise UserError(
      f"{where}.cells='hidden' needs hidden cells: set config.input.mask"
    )
  if target.cells not in ('all', 'hidden'):
    raise UserError(f"{where}.cells={target.cells!r}: 'all' or 'hidden'")
