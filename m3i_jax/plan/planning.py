"""Compiles a config's step for devices that may be elsewhere, and measures it.

`measure` makes the numbers of plan.py; `remedies` what to try if it is too
large.
"""

import dataclasses
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from m3i_jax import build, flops, sharding, weights
from m3i_jax import config as schema
from m3i_jax.errors import UserError
from m3i_jax.objective import Objective
from m3i_jax.plan import forecast, hlo
from m3i_jax.plan.topology import Topology
from m3i_jax.program import Program

UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# What libtpu says of a program that is too large: all of it, or its
# temporaries alone.
_TOO_LARGE = (
  r'Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm',
  r'temporaries \(([\d.]+)([KMGT])\) exceeds available HBM',
)
_REMAT = ('none', 'dots', 'full')


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked of a plan besides the config."""

  topology: Topology
  mfu: float  # of the model's operations, between 0 and 1
  classes: int  # C of the data
  vocabulary: int  # V of the tokenizer


def check(config: ConfigDict, ask: Request) -> Program:
  """The program of a config, not yet compiled.

  Raises:
    UserError: a mesh or a batch that is impossible, or a mistake in the config.
  """
  devices = ask.topology.devices
  mesh = sharding.make_mesh(**config.mesh, devices=devices)
  with config.unlocked():  # No data are read.
    config.data.sources, config.data.source = {}, 'synthetic'
  schema.check(config, len(devices))
  build.optimizer(config)
  objective = build.build(
    config,
    ask.classes if config.data.label else 0,
    ask.vocabulary if config.data.text else 0,
    weights.describe(config.teacher) if config.teacher else None,
  )
  return Program(config, objective, mesh)


def measure(config: ConfigDict, ask: Request) -> dict[str, Any]:
  """The plan of a config; its keys are those of `plan --json`."""
  program = check(config, ask)
  topology = ask.topology
  kinds = state_bytes(program)
  begun = time.perf_counter()
  compiled, told = _compiled(program)
  seconds = time.perf_counter() - begun
  space = available(topology)
  sizes = _sizes(kinds, compiled, told) | {'available': space}
  found = hlo.collectives(compiled.as_text()) if compiled else []
  count = sum(_operations(program).values())
  least = _least(program, kinds)
  notes = list(topology.notes)
  if not all(one.counted for one in found):
    notes.append('a loop of unknown length counts once: more is sent')
  if not compiled:
    notes.append('it was not compiled: what it would send is not known')
  chip, devices = topology.chip, len(topology.devices)
  result = {
    'topology': topology.name,
    'device': topology.devices[0].device_kind,
    'devices': devices,
    'chips': devices // (chip.cores if chip else 1),
    'mesh': dict(program.mesh.shape),
    'batch_size': config.batch_size,
    'accumulate': config.accumulate,
    'remat': config.model.remat,
    'parameters': parameters(program),
    'bytes_per_device': sizes,
    'fits': bool(compiled) and (space is None or sizes['total'] <= space),
    'flops_per_step': count,
    'least_bytes_per_step': least,
    'collectives': hlo.summary(found),
    'largest_collectives': _largest(found),
  }
  return result | _time(config, ask, result, found) | {
    'notes': notes,
    'compile_s': seconds,
    'jax': jax.__version__,
  }


def _time(config, ask: Request, result: dict, found) -> dict[str, Any]:
  """Floors and the schedule; None where the chip is not known."""
  names = (
    'step_ms', 'images_per_s', 'images_per_s_per_chip', 'days', 'chip_hours'
  )  # fmt: skip
  answer = {'mfu': ask.mfu, 'total_steps': config.total_steps}
  chip = ask.topology.chip
  if not chip:
    return answer | {'floor_ms': None} | dict.fromkeys(names)
  floors = forecast.floors(
    result['flops_per_step'], result['least_bytes_per_step'], found,
    result['devices'], chip, ask.topology.per_host,
  )  # fmt: skip
  seconds = floors.seconds(ask.mfu)
  return answer | {
    'floor_ms': {k: 1e3 * v for k, v in dataclasses.asdict(floors).items()}
  } | forecast.schedule(
    seconds, config.batch_size, config.total_steps, result['chips']
  )  # fmt: skip


def state_bytes(program: Program) -> dict[str, int]:
  """Bytes on one device by kind, from the shapes of its shards."""
  state = program.state()
  kinds = {'params': state.params, 'optimizer': state.opt_state,
           'ema': state.ema, 'batch': program.batch()}  # fmt: skip
  sizes = {name: _shard_bytes(tree) for name, tree in kinds.items()}
  rest = _shard_bytes((state, program.batch())) - sum(sizes.values())
  return sizes | {'other': rest}


def _shard_bytes(tree) -> int:
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape))) * _itemsize(x.dtype)
    for x in jax.tree.leaves(tree)
  )


def _itemsize(dtype) -> int:
  """Of a key, too."""
  return getattr(dtype, 'itemsize', 0) or np.dtype(dtype).itemsize


def parameters(program: Program) -> int:
  return _elements(program.state().params)


def _elements(tree) -> int:
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def _compiled(program: Program):
  """(the executable, None), or (None, what the compiler says)."""
  try:
    return program.lower().compile(), None
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return None, str(error)


def _sizes(kinds: dict[str, int], compiled, told: str | None) -> dict:
  """Bytes on a device: what goes in by kind, temporaries, all of it."""
  known = sum(kinds.values())
  if compiled is None:
    used, temporaries = (re.search(p, told) for p in _TOO_LARGE)
    found = used or temporaries
    size = int(float(found[1]) * UNITS[found[2]]) if found else None
    total = size if used or not found else size + known
    return kinds | {'temporaries': total and total - known, 'total': total}
  memory = compiled.memory_analysis()
  program = memory.generated_code_size_in_bytes
  padding = memory.argument_size_in_bytes - known
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return kinds | {
    'temporaries': memory.temp_size_in_bytes,
    'results': results,
    'padding': padding,
    'program': program,
    'total': known + padding + results + memory.temp_size_in_bytes + program,
  }


def available(topology: Topology) -> int | None:
  """Bytes that a program may take on one device; None if that is not known."""
  device, chip = topology.devices[0], topology.chip
  stats = device.memory_stats() if topology.name == 'here' else None
  if stats and stats.get('bytes_limit'):
    return stats['bytes_limit']
  if not chip:  # CPU devices share the memory of the host.
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return pages // len(topology.devices)
  share = 1.0
  if any(kind.startswith('NVIDIA') for kind in chip.kinds):
    share = float(os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION', 0.75))
  return int(share * chip.memory / chip.cores)


def _operations(program: Program) -> dict[str, int]:
  c, objective = program.config, program.objective
  length = c.data.text_length if objective.reading('text') else 0
  return flops.analytic(objective, c.image_size, c.batch_size, length)


def _least(program: Program, kinds: dict[str, int]) -> float:
  """See `forecast.least_bytes`."""
  objective: Objective = program.objective
  state, ways = program.state(), program.mesh.shape
  dtype = objective.encoder.dtype  # of the products
  width = 2 if dtype == 'mixed' else np.dtype(dtype).itemsize
  # There and back; teachers only there, once for every view.
  reads = 2 * _elements(state.params)
  reads += len(objective.reading('ema')) * _elements(state.ema)
  reads += len(objective.reading('frozen')) * _elements(state.frozen)
  return forecast.least_bytes(
    objective,
    program.config.image_size,
    rows=program.config.batch_size / program.mesh.size,
    state=kinds['params'] + kinds['optimizer'] + kinds['ema'],
    weights=reads * width / ways['tensor'],
    batch=kinds['batch'],
  )


def _largest(found: list[hlo.Collective], most: int = 8) -> list[dict]:
  """The operations that send most, those alike together."""
  alike: dict[tuple, list[hlo.Collective]] = {}
  for one in found:
    source = re.sub(r'jit\(\w+\)/', '', one.source)
    key = one.kind, one.shape, one.group, source
    alike.setdefault(key, []).append(one)
  rows = [
    dict(
      kind=kind, shape=shape, group=group, source=source,
      count=sum(one.times for one in some),
      sent_bytes=sum(one.sent for one in some),
    )
    for (kind, shape, group, source), some in alike.items()
  ]  # fmt: skip
  return sorted(rows, key=lambda row: -row['sent_bytes'])[:most]


def remedies(config: ConfigDict, ask: Request) -> list[dict[str, Any]]:
  """What may make a config smaller: {key: value} each, the mildest first."""
  devices = len(ask.topology.devices)
  return [
    change
    for change in _changes(config, devices)
    if _possible(config, change, devices)
  ]


def _changes(config: ConfigDict, devices: int) -> Iterator[dict[str, Any]]:
  for name in _REMAT[_REMAT.index(config.model.remat) + 1 :]:
    yield {'model.remat': name}
  replica, fsdp, tensor = sharding.sizes(**config.mesh, devices=devices)
  if replica > 1:
    yield {'mesh.replica': 1, 'mesh.fsdp': fsdp * replica}
  for parts in (2, 4, 5):
    yield {'accumulate': config.accumulate * parts}
  if fsdp % 2 == 0:
    yield {'mesh.replica': replica, 'mesh.fsdp': fsdp // 2,
           'mesh.tensor': tensor * 2}  # fmt: skip
  yield {'batch_size': config.batch_size // 2}


def changed(config: ConfigDict, change: dict[str, Any]) -> ConfigDict:
  """A copy of the config with some keys changed."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(change)
  return config


def _possible(config: ConfigDict, change: dict[str, Any], devices: int) -> bool:
  try:
    schema.check(changed(config, change), devices)
  except UserError:
    return False
  return True
