"""From a config to the objects of the core; below this file goes no config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from m3i_jax import models, objective, rows, specs
from m3i_jax.augment import Colour
from m3i_jax.balance import BALANCES
from m3i_jax.data.crops import Crop
from m3i_jax.decoders import DECODERS, AttentionPool, DenseDecoder
from m3i_jax.errors import UserError
from m3i_jax.evals import EVALUATORS
from m3i_jax.inputs import Input
from m3i_jax.models import dcnv3, layers, transformer
from m3i_jax.optim import Optimizer
from m3i_jax.specs import choose, make

# The words that a backbone's fields may be.
_WORDS = {
  'remat': tuple(transformer.REMAT),
  'positions': ('sincos', 'learned'),
  'activation': tuple(layers.ACTIVATIONS),
  'pooling': ('', 'cls', 'mean', 'map'),
  'impl': ('auto', *dcnv3.IMPLS),
}


def encoder(config: ConfigDict):
  """f_theta."""
  return backbone(config.model, config.image_size)


def backbone(model: Mapping[str, Any], image_size: int):
  """The network that config.model describes, for images of this side.

  Raises:
    UserError: a name, a field or a size that does not exist or fit.
  """
  fields = dict(model)
  name, variant = fields.pop('name'), fields.pop('variant', '')
  fields['dtype'] = _dtype(fields['dtype'])
  for field, choices in _WORDS.items():
    if field in fields:
      specs.one_of(fields[field], choices, f'config.model.{field}')
  fields = models.settled(name, variant, fields)
  made = specs.make(models.BACKBONES[name], fields, 'config.model')
  if image_size % made.stride:
    what, other = 'stride', ''
    if 'patch' in fields:
      what, other = 'patch side', ' or config.model.patch'
    raise UserError(
      f'config.image_size={image_size} is no multiple of the {what} '
      f'{made.stride}: choose another size{other}'
    )
  if hasattr(made, 'heads'):
    specs.divides(made.heads, made.width, 'config.model.heads')
  return made


def teacher(model: Mapping[str, Any] | None, config: ConfigDict):
  """The frozen target encoder that a weights file describes; None without one.

  Args:
    model: as config.model, see `weights.describe`.
  Raises:
    UserError: its patches are not those of the online encoder.
  """
  if not model:
    return None
  try:
    frozen = backbone(
      dict(model) | dict(drop_path=0.0, dtype=config.model.dtype),
      config.image_size,
    )
  except UserError as error:
    raise UserError(f'config.teacher: {error}') from error
  patch = encoder(config).patch
  if frozen.patch != patch:
    raise UserError(
      f'config.teacher has patches of {frozen.patch} pixels, the encoder of '
      f'{patch}: make config.model.patch equal, so that their cells agree'
    )
  return frozen


def build(
  config: ConfigDict,
  classes: int = 0,
  vocabulary: int = 0,
  teacher_model: Mapping[str, Any] | None = None,
) -> objective.Objective:
  """The objective that the config describes.

  Args:
    classes: C, how many labels the data have; 0 for none.
    vocabulary: V of the tokenizer; 0 for none.
    teacher_model: what the weights file config.teacher describes.
  Raises:
    UserError: unknown keys or kinds, widths that do not fit, targets whose
      field the data lack.
  """
  theta, frozen = encoder(config), teacher(teacher_model, config)
  inherited = dict(
    dtype=theta.dtype, unroll=config.model.unroll, remat=config.model.remat
  )
  length = config.data.text_length
  input_ = make(Input, config.input, 'config.input')
  specs.one_of(input_.view, tuple(config.views), 'config.input.view')
  input_.owned((config.image_size // theta.patch) ** 2)
  if theta.whole and input_.mask and input_.images == 1 and (
    input_.hidden == 'drop'
  ):
    raise UserError(
      f'config.model.name={config.model.name!r} needs the whole grid of cells: '
      "set config.input.hidden='fill'"
    )
  specs_ = {
    name: dict(specs.normal(spec, f'config.decoders.{name}'))
    for name, spec in config.decoders.items()
  }
  known = inherited | dict(
    classes=classes,
    vocabulary=vocabulary,
    text_length=length,
    source=config.data.source or ', '.join(config.data.sources),
  )
  targets = {
    name: rows.target(
      row, f'config.targets.{name}', specs_, theta, frozen, known
    )
    for name, row in config.targets.items()
  }
  decoders = {
    name: choose(
      DECODERS, {'out': theta.width} | spec, f'config.decoders.{name}',
      inherited | dict(positions=length),
    )
    for name, spec in specs_.items()
  }  # fmt: skip
  for name, target in targets.items():
    rows.check(
      target, decoders[target.decoder], input_, theta, f'config.targets.{name}'
    )
    _check_choices(f'config.targets.{name}.predictor', target.predictor)
  _check_last(targets, theta, frozen)
  for name, decoder in decoders.items():
    _check_decoder(f'config.decoders.{name}', decoder, theta)
  _check_use(config, decoders, targets, frozen)
  return objective.Objective(
    input=input_,
    encoder=theta,
    decoders=decoders,
    targets=targets,
    colours={name: _part(Colour, name, v) for name, v in config.views.items()},
    balance=choose(BALANCES, config.balance, 'config.balance'),
    teacher=frozen,
  )


def optimizer(config: ConfigDict) -> Optimizer:
  """The optimizer: Table 7's, or one of the transfer protocols'."""
  made = make(Optimizer, config.optimizer, 'config.optimizer')
  specs.one_of(made.kind, ('adamw', 'lars'), 'config.optimizer.kind')
  specs.one_of(made.decay, ('cosine', 'linear'), 'config.optimizer.decay')
  return made


def crops(config: ConfigDict, letters: tuple[str, ...]) -> dict[str, Crop]:
  """The host's part of the views that are used."""
  return {
    name: _part(
      Crop, name, dict(config.views[name]) | {'size': config.image_size}
    )
    for name in letters
  }


def evaluators(config: ConfigDict) -> dict[str, Any]:
  """The evaluators by name."""
  return {
    name: choose(EVALUATORS, spec, f'config.evals.{name}')
    for name, spec in config.evals.items()
  }


def _part(cls, view: str, fields: Mapping[str, Any]):
  """A dataclass from the fields of a view that are its own."""
  specs.bounded(fields, f'config.views.{view}')
  names = {f.name for f in dataclasses.fields(cls)}
  return cls(**{k: v for k, v in fields.items() if k in names})


def _dtype(name: str):
  specs.one_of(name, ('float32', 'bfloat16', 'mixed'), 'config.model.dtype')
  return name if name == 'mixed' else jnp.dtype(name)


def _check_last(targets, theta, frozen) -> None:
  """One pass of a target encoder gives one mean of its last blocks."""
  used: dict[str, set[int]] = {}
  for target in targets.values():
    z = target.representation
    if target.group == 'ssp' and z.reads != 'pixels':
      used.setdefault(z.reads, set()).add(z.last)
  for reads, last in used.items():
    depth = (frozen if reads == 'frozen' else theta).depth
    if len(last) > 1 or not 1 <= max(last) <= depth:
      raise UserError(
        f'config.targets: representation.last={sorted(last)} of the {reads!r} '
        f'encoder: give all its targets the same, from 1 to {depth}'
      )


def _check_decoder(where: str, decoder, theta) -> None:
  width = getattr(decoder, 'width', theta.width)
  if hasattr(decoder, 'heads'):
    specs.divides(decoder.heads, width, f'{where}.heads')
  if isinstance(decoder, DenseDecoder) and width % 4:
    raise UserError(f'{where}.width={width} must be a multiple of 4')
  _check_choices(where, decoder)


def _check_choices(where: str, part) -> None:
  """The words of a decoder or a predictor."""
  for field, choices in (
    ('norm', ('none', *layers.NORMS)),
    ('activation', ('gelu', 'relu')),
    ('pool', ('mean', 'cls', 'none')),
  ):
    if hasattr(part, field):
      specs.one_of(getattr(part, field), choices, f'{where}.{field}')


def _check_use(config: ConfigDict, decoders, targets, frozen) -> None:
  """What is named is there, and what is there is used."""
  trained = {target.decoder for target in targets.values()}
  pools = [
    name
    for name in sorted(trained)
    if getattr(decoders[name], 'pool', '') in ('mean', 'cls')
    or isinstance(decoders[name], AttentionPool)
  ]
  if config.features and config.features not in pools:
    raise UserError(
      f'config.features={config.features!r}: name a decoder that gives one '
      f"vector and that a target trains ({', '.join(pools) or 'none does'}), "
      "or '' for the mean of the tokens"
    )
  if frozen is not None and not any(
    target.representation.reads == 'frozen' for target in targets.values()
  ):
    raise UserError(
      'config.teacher is given, but no target reads it: set '
      "representation.encoder='frozen' in one, or config.teacher=''"
    )
