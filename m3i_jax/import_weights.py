"""Weights of other projects, as a file that a run can start from.

  python -m m3i_jax.import_weights --out=vitb.safetensors mae_vit_base.pth
  python -m m3i_jax.import_weights --from=hf_dinov2 --image_size=518 \\
    --out=dinov2.safetensors DIRECTORY

PATH is a .safetensors, .npz or .pth file (.pth needs torch), or a directory of
Hugging Face or timm. The file that is written says of itself what it holds: it
goes into config.init_from, config.teacher or m3i_jax.export. Of a net without a
config.json, what shapes do not tell is given: --heads=16 --field=eps=1e-12.

Every key is accounted for: read, or printed as left out, and a missing,
unexpected or unfit one is an error. Exit codes: 0, 1 if --verify found a
difference, 2 a mistake that the printed line explains.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from m3i_jax import command, weights
from m3i_jax.errors import UserError
from m3i_jax.weights import adapt, foreign, recognise, resize, verify


@dataclasses.dataclass(frozen=True)
class Imported:
  """A network of another project, as this package has it.

  Attributes:
    family: one of `weights.FAMILIES`.
    model: fields of config.model, 'name' among them.
    params: nested dicts of float32 arrays.
    count: how many arrays were read.
    notes: (what became of it, official key or path), of all that was not.
  """

  family: str
  model: dict[str, Any]
  params: dict[str, Any]
  count: int
  notes: tuple[tuple[str, str], ...]


def convert(
  read: foreign.Foreign,
  family: str = '',
  given: Mapping[str, Any] = {},  # noqa: B006
  image_size: int = 0,
  strict: bool = True,
) -> Imported:
  """A foreign file's network.

  Args:
    family: '' for what the file looks like.
    given: fields of config.model that shapes do not tell.
    image_size: pixels, 0 for that of the table of positions.
    strict: False: leave out unexpected keys.
  Raises:
    UserError: names the first key that does not fit.
  """
  arrays = dict(read.arrays)
  family = family or recognise.guess(read.config, arrays)
  notes = [('left out', key) for key in weights.left_out(family, arrays)]
  if not strict:
    # All that is wrong: a line each, '... is unexpected'.
    for line in weights.problems(family, arrays):
      key = line.removesuffix(' is unexpected')
      if key in arrays:
        del arrays[key]
        notes.append(('unexpected', key))
  params = weights.import_state(family, arrays)
  given = recognise.given(read.config) | dict(given)
  if 'heads' not in given and (heads := recognise.heads(params)):
    given['heads'] = heads
  model = weights.model_of(family, arrays, given)
  skipped = list(notes)
  if image_size:
    notes += _resized(params, model, image_size)
  return Imported(
    family, model, params, len(read.arrays) - len(skipped), tuple(notes)
  )


def _resized(params: dict, model: Mapping, size: int) -> list[tuple[str, str]]:
  """Makes learned positions those of a size; the note that says so."""
  if 'pos_embed' not in params:
    raise UserError(
      f'--image_size={size}: this {model["name"]} has no learned positions, '
      'and takes pictures of any size'
    )
  if size < 0 or size % model['patch']:
    raise UserError(
      f'--image_size={size} is no multiple of the patch side {model["patch"]}'
    )
  old = params['pos_embed']
  prefix = int(bool(model.get('class_token')))
  new = resize.positions(old, prefix, size // model['patch'])
  params['pos_embed'] = new
  if new.shape == old.shape:
    return []
  return [('reshaped', f'pos_embed {old.shape} -> {new.shape}')]


def described(imported: Imported) -> str:
  """What was found, a line each."""
  fields = ', '.join(
    f'{key} {value}'
    for key, value in imported.model.items()
    if key != 'name' and (value or value is False)
  )
  lines = [
    f'family    {imported.family}: {imported.count} arrays, '
    f'{adapt.millions(imported.params):.3f} M parameters',
    f'model     {imported.model["name"]}: {fields}',
  ]
  return '\n'.join(
    lines + [f'{state:<9} {name}' for state, name in imported.notes]
  )


def fields(told: list[str]) -> dict[str, Any]:
  """'KEY=VALUE's, the values as JSON or else as they stand."""
  given = {}
  for text in told:
    key, equals, value = text.partition('=')
    if not equals or not key.isidentifier():
      raise UserError(f'--field={text}: give KEY=VALUE')
    try:
      given[key] = json.loads(value)
    except ValueError:
      given[key] = value
  return given


def define() -> None:
  """The flags."""
  families = ', '.join(weights.FAMILIES)
  flags.DEFINE_string('from', '', f'family; by default guessed: {families}')
  flags.DEFINE_string('out', '', 'the .safetensors file to write')
  flags.DEFINE_bool('overwrite', False, 'replace --out where it is there')
  flags.DEFINE_integer('heads', 0, 'attention heads, if not told')
  flags.DEFINE_multi_string(
    'field', [], 'KEY=VALUE of config.model that shapes do not tell; repeatable'
  )
  flags.DEFINE_integer(
    'image_size', 0, 'resize learned positions to pictures of so many pixels'
  )
  flags.DEFINE_enum(
    'which', 'model', ('model', 'ema'), 'of a .pth that has both'
  )
  flags.DEFINE_bool(
    'strict', True, 'no: leave out unexpected keys, too, and print them'
  )
  flags.DEFINE_bool(
    'verify', False, 'run both nets, where torch is installed, and compare'
  )
  flags.DEFINE_float(
    'max_gib', foreign.LIMIT, 'refuse files that hold more than this'
  )


def work(path: str, given: flags.FlagValues) -> int:
  """The command."""
  family, out = given['from'].value, Path(given.out)
  if family and family not in weights.FAMILIES:
    raise UserError(
      f'--from={family}: choose from {", ".join(weights.FAMILIES)}'
    )
  if out.suffix != '.safetensors' or not out.parent.is_dir():
    raise UserError(
      f'--out={out}: name a .safetensors file in a directory that is there'
    )
  if out.exists() and os.path.realpath(path) in (
    os.path.realpath(out), os.path.realpath(out.parent)
  ):  # fmt: skip
    raise UserError(f'--out={out} would replace what is read: name another')
  if out.exists() and not given.overwrite:
    raise UserError(f'--out={out} is there: name another, or give --overwrite')
  told = fields(given.field) | ({'heads': given.heads} if given.heads else {})
  imported = convert(
    foreign.read(path, given.which, given.max_gib), family, told,
    given.image_size, given.strict,
  )  # fmt: skip
  print(described(imported))
  net = adapt.module(imported.model, imported.params)
  try:
    weights.save(out, imported.params, imported.model)
  except OSError as error:
    raise UserError(f'cannot write {out} ({error.strerror})') from error
  print(f'wrote     {out}')
  if not given.verify:
    return 0
  verdict = verify.imported(
    imported.family, imported.model, net, imported.params
  )
  print(f'verify    {verdict}')
  return int(verdict.differs)


if __name__ == '__main__':
  command.run(define, work, required=('out',))
