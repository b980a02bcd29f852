"""config.init_from: a start from imported weights, or from another run.

A file of `import_weights` says itself whether it holds an encoder or a text
tower; of a run's directory all that fits is taken, decoders and tables too.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax import checkpoint, positions, weights
from m3i_jax.errors import UserError
from m3i_jax.weights import match, resize
from m3i_jax.weights.fit import Row, differ, fit, flat, size, table

Tree = Mapping[str, Any]

TOWERS = ('representation', 'tower')


@dataclasses.dataclass(frozen=True)
class Source:
  """One entry of config.init_from.

  Attributes:
    path: a weights file, or the workdir of a run.
    model: what it holds, see `weights.describe`.
  """

  path: str
  model: dict[str, Any]

  @property
  def run(self) -> bool:
    return Path(self.path).is_dir()

  @property
  def text(self) -> bool:
    return self.model.get('name') == 'text'


def sources(init_from: str) -> list[Source]:
  """The entries of config.init_from, each described by its file."""
  paths = [path.strip() for path in init_from.split(',') if path.strip()]
  return [Source(path, weights.describe(path)) for path in paths]


def check(init_from: str, objective) -> None:
  """Raises UserError for a file that cannot start this objective's networks.

  Only what the files say of themselves is compared, so that it takes no time;
  shapes are when the arrays are read.
  """
  for source in sources(init_from):
    where = f'config.init_from: {source.path}'
    if not source.text:
      match.same(where, source.model, objective.encoder, 'config.model')
      continue
    towers = towers_of(objective)
    if not towers:
      raise UserError(
        f'{where} is a text tower, and no target has one: leave it out, or add '
        'a target whose representation is text'
      )
    for name, z in towers.items():
      match.same(
        where, source.model, z, f'config.targets.{name}.representation'
      )


def towers_of(objective) -> dict[str, Any]:
  """The text representations, by their targets."""
  return {
    name: target.representation
    for name, target in objective.targets.items()
    if target.representation.reads == 'text'
    and not getattr(target.representation, 'tells', True)
  }


def start(init_from: str, state, objective, tokenizer: Path):
  """The fresh state with all that files have; prints what became of it.

  Args:
    state: a `step.TrainState`; arrays keep their places on the mesh.
    tokenizer: of this run; word tables of runs with another one stay fresh.
  Raises:
    UserError: a file does not fit the networks of the objective.
  """
  params, rows = dict(state.params), []
  for source in sources(init_from):
    if source.run:
      found = checkpoint.restore_params(source.path)
      same = _bytes(tokenizer) == _bytes(Path(source.path) / 'tokenizer.model')
      new, told = of_run(found, params, source, objective.encoder, same)
    elif source.text:
      found = weights.read(source.path)
      new, told = of_text(found, params, source, list(towers_of(objective)))
    else:
      found = weights.read(source.path)
      new, told = of_encoder(
        found, params['encoder'], source, objective.encoder
      )
      new = {'encoder': new}
    params |= new
    rows += told
  if not rows:
    return state
  if jax.process_index() == 0:
    print(table(rows), file=sys.stderr)
  # Copies, for the donated state must not hold one buffer twice; as at any
  # start, the moving average begins with the parameters.
  params = jax.tree.map(
    lambda x, old: x if x is old else (
      jax.device_put(x, old.sharding, may_alias=False)
    ),
    params, dict(state.params),
  )  # fmt: skip
  ema = {k: jax.tree.map(jnp.copy, params[k]) for k in state.ema}
  return state.replace(params=params, ema=ema)


def of_encoder(
  found: Tree, wanted: Tree, source: Source, encoder
) -> tuple[dict, list[Row]]:
  """An encoder's parameters, with what fits of a file.

  Args:
    found: the file's, nested dicts of NumPy arrays.
    wanted: the fresh parameters; their shapes count.
    encoder: the module that `wanted` are of.
  Returns:
    `wanted` with the new arrays in it, and what became of each subtree.
  """
  found, prefix = dict(found), int(getattr(encoder, 'class_token', False))
  note = ''
  if 'pos_embed' in wanted:
    note = _positions(found, wanted, source, prefix)
  new, rows = fit(found, wanted, f'config.init_from: {source.path}', 'encoder')
  if note:
    rows = [
      dataclasses.replace(row, state='reshaped', why=note)
      if row.name == 'encoder/pos_embed' else row
      for row in rows
    ]  # fmt: skip
  return new, rows


def _positions(found: dict, wanted: Tree, source: Source, prefix: int) -> str:
  """Makes the table in `found` fit; says how, '' if it does."""
  shape = wanted['pos_embed'].shape
  side = round((shape[1] - prefix) ** 0.5)
  if 'pos_embed' not in found:
    if source.model.get('positions') != 'sincos':
      return ''
    cells = np.asarray(positions.grid_sincos(side, shape[-1]))[None]
    cls = np.zeros((1, prefix, shape[-1]), np.float32)
    found['pos_embed'] = np.concatenate([cls, cells], axis=1)
    return 'the fixed sines and cosines of the file, from now on learned'
  old = np.asarray(found['pos_embed'])
  own = int(bool(source.model.get('class_token')))
  grid = resize.grid(old, own, f'{source.path}: pos_embed')
  if own and not prefix:
    old = old[:, own:]
  elif prefix and not own:
    cls = np.zeros((1, prefix, old.shape[-1]), np.float32)
    old = np.concatenate([cls, old], axis=1)
  found['pos_embed'] = resize.positions(old, prefix, side)
  changes = []
  if grid != side:
    changes.append(f'{grid} x {grid} -> {side} x {side} cells')
  if own != prefix:
    changes.append('without the class token' if own else 'class token: 0')
  return ', '.join(changes)


def of_text(
  found: Tree, params: Tree, source: Source, targets: Sequence[str]
) -> tuple[dict, list[Row]]:
  """The parameters of the targets whose towers a file starts."""
  new, rows = {}, []
  for target in targets:
    name = f'targets_{target}'
    tower = params[name][TOWERS[0]][TOWERS[1]]
    read, notes = dict(found), {}
    have, want = found['position'].shape[0], tower['position'].shape[0]
    if have > want:
      read['position'] = found['position'][:want]
      notes['position'] = f'the first {want} of {have}'
    read, told = fit(
      read, tower, f'config.init_from: {source.path}',
      '/'.join((name, *TOWERS)),
    )  # fmt: skip
    representation = dict(params[name][TOWERS[0]]) | {TOWERS[1]: read}
    new[name] = dict(params[name]) | {TOWERS[0]: representation}
    rows += [
      dataclasses.replace(row, state='reshaped', why=why)
      if (why := notes.get(row.name.rpartition('/')[2])) else row
      for row in told
    ]  # fmt: skip
  return new, rows


def of_run(
  found: Tree, params: Tree, source: Source, encoder, same_tokens: bool
) -> tuple[dict, list[Row]]:
  """The parameters with every subtree of another run that fits.

  same_tokens: whether both runs have one tokenizer.
  """
  new, rows = of_encoder(found['encoder'], params['encoder'], source, encoder)
  taken = {'encoder': new}
  for name in sorted((set(found) | set(params)) - {'encoder'}):
    have, want = flat(found.get(name, {})), flat(params.get(name, {}))
    count = size(want or have)
    words = any(path.rpartition('/')[2] == 'word' for path in want)
    odd = differ(have, want)
    if not want:
      rows.append(Row(name, 'left out', count, 'this config has none'))
    elif not have:
      rows.append(Row(name, 'fresh', count, 'that run has none'))
    elif odd:
      rows.append(Row(name, 'fresh', count, odd))
    elif words and not same_tokens:
      rows.append(Row(name, 'fresh', count, 'that run has another tokenizer'))
    else:
      taken[name] = found[name]
      rows.append(Row(name, 'loaded', count))
  return taken, rows


def _bytes(path: Path) -> bytes:
  return path.read_bytes() if path.is_file() else b''
