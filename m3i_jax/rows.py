"""Rows of the table: from a config's entry to a `Target`, with its checks."""

from collections.abc import Mapping
from typing import Any

from m3i_jax import specs
from m3i_jax.decoders import (
  AttentionPool,
  CaptionDecoder,
  DenseDecoder,
  Mlp,
)
from m3i_jax.distributions import DISTRIBUTIONS, Sigmoid
from m3i_jax.errors import UserError
from m3i_jax.inputs import Input
from m3i_jax.models import layers, text
from m3i_jax.regularizers import REGULARIZERS
from m3i_jax.representations import (
  ENCODERS,
  REPRESENTATIONS,
  Category,
  Prototypes,
)
from m3i_jax.specs import choose
from m3i_jax.target import Target

PREDICTORS = {'layer_norm': layers.LayerNorm, 'mlp': layers.Projection}

# What combines: representation -> distribution -> regularizers.
COMBINES = {
  'pixels': {'gaussian': ('none',)},
  'dense': {
    'gaussian': ('none', 'stop_gradient', 'covariance'),
    'boltzmann': ('negatives',),
    'sigmoid': ('negatives',),
  },
  'global': {
    'gaussian': ('none', 'stop_gradient', 'covariance', 'decorrelation'),
    'correlation': ('decorrelation',),
    'boltzmann': ('negatives',),
    'sigmoid': ('negatives',),
    'categorical': ('centering',),
  },
  'prototypes': {'boltzmann': ('mean_entropy', 'none')},
  'category': {'boltzmann': ('negatives',)},
  'text': {'boltzmann': ('negatives',), 'sigmoid': ('negatives',)},
  'tokens': {'categorical': ('none',)},
}


def target(
  row: Mapping[str, Any], where: str, decoders: dict, theta, teacher, known
) -> Target:
  """One row of config.targets.

  Args:
    decoders: specs by name; a decoder that has no `out` yet is given it.
    theta, teacher: the encoders, for their widths and patches.
    known: fields that parts inherit unless they say otherwise.
  """
  if not hasattr(row, 'keys'):
    raise UserError(
      f'{where}={row!r}: a row is a dict, see docs/add_a_target.md'
    )
  row = dict(row)
  for key in ('of', 'representation', 'decoder', 'distribution'):
    if key not in row:
      raise UserError(f'{where}.{key} is missing')
  if row['decoder'] not in tuple(decoders):
    raise UserError(
      f'{where}.decoder={row["decoder"]!r} is not in config.decoders: choose '
      f'from {", ".join(decoders)}'
    )
  decoder = decoders[row['decoder']]
  row.setdefault('regularizer', 'none')
  kinds = _combination(row, where)
  spec = dict(specs.normal(row['representation'], where))
  if variant := spec.pop('variant', ''):
    spec = _text_sizes(variant, where) | spec
  width = _width(spec, decoder, theta, teacher, where)
  z = choose(
    REPRESENTATIONS, spec, f'{where}.representation',
    known | dict(width=width, patch=theta.patch),
  )  # fmt: skip
  made = dict(
    representation=z,
    distribution=choose(
      DISTRIBUTIONS, row['distribution'], f'{where}.distribution'
    ),
    regularizer=choose(
      REGULARIZERS, row['regularizer'], f'{where}.regularizer'
    ),
  )
  if row.get('predictor'):
    made['predictor'] = choose(
      PREDICTORS, row['predictor'], f'{where}.predictor',
      dict(out=z.width, dtype=theta.dtype),
    )  # fmt: skip
  predicted = decoder.setdefault('out', z.width)
  if hasattr(made.get('predictor'), 'out'):
    predicted = made['predictor'].out
  if predicted != z.width:
    raise UserError(
      f'{where}: the representation is {z.width} wide, but '
      f'config.decoders.{row["decoder"]} predicts {predicted}: make them '
      'equal, or add a decoder'
    )
  _check_text(kinds[0], z, decoder, known, where)
  return specs.make(Target, row | made, where)


def check(target: Target, decoder, input_: Input, theta, where: str) -> None:
  """Raises UserError where a target does not fit its decoder or the input."""
  z = target.representation
  of_view = target.group == 'ssp'
  specs.one_of(target.cells, ('all', 'hidden'), f'{where}.cells')
  if of_view != (z.reads in ('pixels', *ENCODERS)) or not (
    of_view or target.of == z.reads
  ):
    raise UserError(
      f'{where}.of={target.of!r} does not fit a representation of '
      f'{"the " + z.reads if z.reads in ("label", "text") else "a view"}'
    )
  if not set() < set(target.components) <= set(range(input_.images)):
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
  table = isinstance(z, (Category, Prototypes))
  if getattr(target.distribution, 'symmetric', False) and table:
    raise UserError(
      f'{where}.distribution.symmetric needs the batch as candidates, which a '
      "table is not: drop it, or predict the 'text' or a view's features"
    )
  if getattr(target.distribution, 'smoothing', 0) and (
    isinstance(target.distribution, Sigmoid) or isinstance(z, Prototypes)
  ):
    raise UserError(
      f"{where}.distribution.smoothing: a 'sigmoid' of pairs has none, nor "
      'have the shares of prototypes; drop it'
    )
  if isinstance(target.regularizer, REGULARIZERS['centering']) and (
    len(target.components) > 1
  ):
    raise UserError(
      f"{where}.regularizer='centering' keeps one centre: give it one of "
      f'components={target.components}'
    )
  _check_answer(target, decoder, input_, theta, where)


def _check_answer(target, decoder, input_: Input, theta, where: str) -> None:
  """The decoder answers what the representation asks."""
  z, name = target.representation, f'decoder={target.decoder!r}'
  if getattr(z, 'tells', False):
    asks, answers = 'a caption decoder', isinstance(decoder, CaptionDecoder)
  elif z.reads == 'pixels' or isinstance(z, REPRESENTATIONS['dense']):
    asks = "a dense decoder, or an mlp of pool='none'"
    answers = isinstance(decoder, DenseDecoder)
    answers |= getattr(decoder, 'pool', '') == 'none'
  else:
    asks = 'a pool, or an mlp that pools'
    answers = isinstance(decoder, (AttentionPool, Mlp))
    answers &= getattr(decoder, 'pool', '') != 'none'
  if not answers:
    raise UserError(f'{where}.{name}: this target needs {asks}')
  pool = getattr(decoder, 'pool', '')
  if pool == 'none' and (input_.mask or target.of != input_.view):
    raise UserError(
      f"{where}.{name}: an mlp of pool='none' answers for the cells that it "
      'sees: it needs a whole input, and a target of its view'
    )
  if pool == 'cls' and (input_.images == 2 or not theta.class_token):
    raise UserError(
      f"{where}.{name}: pool='cls' needs config.model.class_token, and one "
      'image (that of a mix has seen both)'
    )


def _combination(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
  """The kinds of z, P and H; raises UserError if they do not combine."""
  z, p, h = (
    specs.normal(row[key], f'{where}.{key}')['kind']
    for key in ('representation', 'distribution', 'regularizer')
  )
  if z in COMBINES and p in DISTRIBUTIONS and h in REGULARIZERS:
    if h not in COMBINES[z].get(p, ()):
      combine = '; '.join(
        f'{name} with {" or ".join(kinds)}'
        for name, kinds in COMBINES[z].items()
      )
      raise UserError(
        f'{where}: representation {z!r}, distribution {p!r} and regularizer '
        f'{h!r} do not combine. With {z!r} go: {combine}'
      )
  return z, p, h


def _width(spec, decoder: Mapping, theta, teacher, where: str) -> int:
  """D of what a representation gives, as far as the others decide it."""
  source, kind = theta, spec['kind']
  if spec.get('encoder', 'ema') not in ENCODERS:
    specs.one_of(spec['encoder'], ENCODERS, f'{where}.representation.encoder')
  if spec.get('encoder') == 'frozen':
    if teacher is None:
      raise UserError(
        f"{where}.representation.encoder='frozen' needs a pre-trained encoder: "
        'name its weights file, or the workdir of a run, in config.teacher'
      )
    source = teacher
    if spec.get('projected') or kind == 'prototypes':
      raise UserError(
        f"{where}.representation: a 'frozen' encoder has no projector: choose "
        "'dense' or 'global' without projected"
      )
    if kind == 'global':
      return source.width
  if kind == 'dense':
    if not spec.get('projected'):
      return source.width
    if decoder['kind'] == 'dense':
      return decoder.get('width', 768)
  return decoder.get('out', theta.width)


def _check_text(
  kind: str, z, decoder: Mapping, known: Mapping[str, Any], where: str
) -> None:
  """The data have what a category or a text is made of."""
  if z.reads in ('label', 'text') and not (
    z.classes if z.reads == 'label' else z.vocabulary
  ):
    raise UserError(
      f'{where} predicts the {z.reads}: name the field of data set '
      f'{known["source"]!r} that holds it in config.data.{z.reads}'
    )
  length = known['text_length']
  if z.reads == 'text' and length < 3:
    raise UserError(
      f'config.data.text_length={length} leaves no room for {where} between '
      'the first and the last piece of a text: raise it'
    )
  if kind == 'tokens' and decoder.get('positions', length) < length - 1:
    raise UserError(
      f'{where}: its decoder has {decoder["positions"]} positions, too few for '
      f'config.data.text_length={length}: leave them out'
    )
  if kind != 'text':
    return
  if length > z.positions:
    raise UserError(
      f'config.data.text_length={length} is more than the '
      f'{z.positions} positions of {where}: lower it, or raise '
      'representation.positions'
    )
  specs.one_of(z.pool, ('cls', 'mean'), f'{where}.representation.pool')
  specs.divides(z.heads, z.width, f'{where}.representation.heads')


def _text_sizes(name: str, where: str) -> dict[str, int]:
  specs.one_of(
    name, tuple(text.VARIANTS), f'{where}.representation.variant'
  )
  sizes = ('width', 'depth', 'heads', 'hidden')
  return dict(zip(sizes, text.VARIANTS[name], strict=True))
