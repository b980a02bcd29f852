"""From a config to the objects of the core; below this file goes no config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from m3i_jax import models, objective, specs
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
from m3i_jax.specs import choose, make

PREDICTORS = {'layer_norm': layers.LayerNorm}
_SIZES = ('width', 'depth', 'heads', 'hidden', 'patch')


def encoder(config: ConfigDict):
  """f_theta."""
  fields = {k: v for k, v in config.model.items() if v or k not in _SIZES}
  name, variant = fields.pop('name'), fields.pop('variant')
  fields['dtype'] = _dtype(fields['dtype'])
  _one_of(fields['remat'], tuple(layers.REMAT), 'config.model.remat')
  _one_of(
    fields['positions'], ('sincos', 'learned'), 'config.model.positions'
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
  _divides(backbone.heads, backbone.width, 'config.model.heads')
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
  _one_of(input_.view, tuple(config.views), 'config.input.view')
  input_.owned((config.image_size // theta.patch) ** 2)
  wanted = {
    name: specs.normal(spec, f'config.decoders.{name}')
    for name, spec in config.decoders.items()
  }
  # What a decoder's output must be as wide as; the pools say it themselves.
  widths = {
    name: spec.get('out', 0 if spec['kind'] == 'dense' else theta.width)
    for name, spec in wanted.items()
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
    for name, spec in wanted.items()
  }  # fmt: skip
  for name, decoder in decoders.items():
    _check_decoder(name, decoder, theta, targets)
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
  spec = dict(specs.normal(row['representation'], f'{where}.representation'))
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
  _one_of(name, ('float32', 'bfloat16', 'mixed'), 'config.model.dtype')
  return name if name == 'mixed' else jnp.dtype(name)


def _one_of(value: str, choices: tuple[str, ...], where: str) -> None:
  if value not in choices:
    raise UserError(f'{where}={value!r}: choose from {", ".join(choices)}')


def _divides(part: int, whole: int, where: str) -> None:
  if whole % part:
    raise UserError(
      f'{where}={part} does not divide the width {whole}: choose a divisor'
    )


def _check_target(target: objective.Target, input_: Input, where: str) -> None:
  reads = target.representation.reads
  dense = target.group == 'ssp'
  _one_of(target.cells, ('all', 'hidden'), f'{where}.cells')
  if dense != (reads in ('pixels', 'features')) or not (
    dense or target.of == reads
  ):
    raise UserError(
      f'{where}.of={target.of!r} does not fit a representation of '
      f'{"a view" if reads in ("pixels", "features") else "the " + reads}'
    )
  if not target.components or max(target.components) >= input_.images:
    raise UserError(
      f'{where}.components={target.components}: name some of the '
      f'config.input.images={input_.images} from 0'
    )
  if target.cells == 'hidden' and (
    not input_.mask or target.of != input_.view
  ):
    raise UserError(
      f"{where}.cells='hidden' asks for hidden cells of the input view: set "
      f"config.input.mask, and of={input_.view!r}, or cells='all'"
    )
  if getattr(target.distribution, 'symmetric', False) and reads != 'text':
    raise UserError(
      f'{where}.distribution.symmetric needs the batch as candidates, as a '
      'text target has'
    )
  if reads == 'text':
    _one_of(
      target.representation.pool, ('cls', 'mean'),
      f'{where}.representation.pool',
    )  # fmt: skip
    _divides(
      target.representation.heads, target.representation.width,
      f'{where}.representation.heads',
    )  # fmt: skip


def _check_decoder(name: str, decoder, theta, targets) -> None:
  where = f'config.decoders.{name}'
  dense = hasattr(decoder, 'width')
  for row, target in targets.items():
    if target.decoder == name and dense != (target.group == 'ssp'):
      raise UserError(
        f'config.targets.{row}.decoder={name!r}: views need a dense decoder, '
        'category and text a pool'
      )
  width = decoder.width if dense else theta.width
  _divides(decoder.heads, width, f'{where}.heads')
  if dense:
    if width % 4:
      raise UserError(f'{where}.width={width} must be a multiple of 4')
