"""Accelerators by name, to compile for without having them.

  v5p:4x4x4      a TPU slice; 2xv5e:16x16 two of them; needs libtpu
  h100:8         GPUs of one host; h100:4x8 four hosts
  cpu:8          virtual devices of this machine
  here           what JAX finds

libtpu compiles for a TPU on any machine. For GPUs XLA needs one at hand, so
theirs is a program for as many CPU devices: bytes are near, not exact.
"""

import dataclasses
import difflib
import importlib.util
import itertools
import math
import os
import re
import sys
from pathlib import Path

from m3i_jax import chips
from m3i_jax.chips import Chip
from m3i_jax.errors import UserError

FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
LARGE = ('16x32', '32x32')  # of v3
SOLID = ('2x2x1', '2x2x2', '2x2x4', '2x4x4')  # and cubes of 4x4x4 together
# The slices that Cloud TPU offers: libtpu compiles for others, too.
SLICES = {
  'v3': ('2x2', *FLAT[3:], *LARGE),
  'v4': SOLID,
  'v5e': FLAT,
  'v5p': SOLID,
  'v6e': FLAT,
  'tpu7x': SOLID,
}
_CPU_ONLY = 'the memory is what the compiler for CPUs takes, not that of {}'


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices that a program can be compiled for.

  Attributes:
    name: as it was asked for.
    devices: of JAX, here or elsewhere.
    chip: what each is, or is part of; None of a CPU or an unknown one.
    per_host: devices whose links are fast: of a host, or of a slice.
    notes: what to know about numbers that come from them.
  """

  name: str
  devices: list
  chip: Chip | None
  per_host: int
  notes: tuple[str, ...] = ()


def prepare(name: str) -> None:
  """Sets the environment as a topology needs it: before JAX is used.

  Raises:
    UserError: there is no such topology, or no libtpu for it.
  """
  kind, count = _understood(name)
  if kind == 'here':
    return
  os.environ['JAX_PLATFORMS'] = 'cpu'
  if kind not in SLICES:
    flags = os.environ.get('XLA_FLAGS', '')
    if 'host_platform_device_count' not in flags:
      flags += f' --xla_force_host_platform_device_count={math.prod(count)}'
      os.environ['XLA_FLAGS'] = flags.strip()
    return
  # Without these libtpu asks the cloud, and complains, what machine this is;
  # it drives no hardware, so that several may run at a time.
  os.environ.update(
    TPU_LIBRARY_PATH=_libtpu(), TPU_SKIP_MDS_QUERY='1', TPU_WORKER_ID='0',
    TPU_ACCELERATOR_TYPE='v5litepod-4', TPU_WORKER_HOSTNAMES='localhost',
    ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  )  # fmt: skip


def find(name: str) -> Topology:
  """The devices of a name that `prepare` has seen."""
  import jax

  kind, count = _understood(name)
  if kind == 'here':
    devices = jax.devices()
    found = chips.of(devices[0].device_kind)
    unknown = 'no peaks are known of a ' + devices[0].device_kind
    return Topology(
      name, devices, found, jax.local_device_count(),
      () if found else (unknown,),
    )  # fmt: skip
  jax.config.update('jax_platforms', 'cpu')
  if kind in SLICES:
    return _slices(name, kind, count)
  devices, wanted = jax.devices(), math.prod(count)
  if len(devices) < wanted:
    raise UserError(
      f'--topology={name} needs {wanted} virtual devices and this process has '
      f'{len(devices)}: leave --xla_force_host_platform_device_count to it'
    )
  told = 'an accelerator' if kind == 'cpu' else (
    f'{kind}, and gradients are reduced in float32 without scattering them'
  )
  return Topology(
    name, devices[:wanted], chips.named(kind), count[-1],
    (_CPU_ONLY.format(told),),
  )  # fmt: skip


def _slices(name: str, kind: str, count: tuple[int, ...]) -> Topology:
  """TPU devices of libtpu: slices, and the sides of one."""
  from jax.experimental import topologies

  slices, *sides = count
  options: dict = {'chip_config_name': 'megacore'} if kind == 'v4' else {}
  if math.prod(sides) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  if slices > 1:
    options['num_slices'] = slices
  try:
    devices = topologies.get_topology_desc(
      platform='tpu',
      topology_name=f'{kind}:{"x".join(map(str, sides))}',
      **options,
    ).devices
  except Exception as error:  # of libtpu; JAX has no common class for them
    line = str(error).splitlines()[0]
    raise UserError(f'--topology={name}: libtpu says {line}') from error
  return Topology(
    name, list(devices), chips.named(kind), len(devices) // slices
  )


def _understood(name: str) -> tuple[str, tuple[int, ...]]:
  """(kind, numbers): a TPU's slices and sides, else hosts and devices."""
  if name == 'here':
    return name, (1,)
  n = r'([1-9]\d*'
  pattern = rf'(?:{n})x)?([a-z]\w*(?:-\w+)?):{n}(?:x[1-9]\d*){{0,2}})'
  found = re.fullmatch(pattern, name)
  known = [chip.name for chip in chips.CHIPS] + ['cpu']
  kind = found[2] if found else re.split('[:x]', name)[0]
  if not found or kind not in known:
    near = difflib.get_close_matches(kind, known, 3, 0.4) or known
    raise UserError(
      f'--topology={name} is not known: give KIND:SHAPE or "here", such as '
      + ', '.join(_example(kind) for kind in near)
    )
  sides = tuple(map(int, found[3].split('x')))
  if kind in SLICES:
    if not _offered(kind, sides):
      raise UserError(
        f'--topology={name}: there is no such slice of {kind}, the nearest '
        f'are {", ".join(_near(kind, math.prod(sides)))}'
      )
    return kind, (int(found[1] or 1), *sides)
  if found[1] or len(sides) > 2:
    raise UserError(
      f'--topology={name}: {kind} has no slices or sides: give {kind}:DEVICES '
      f'or {kind}:HOSTSxDEVICES, such as {kind}:8, {kind}:4x8'
    )
  return kind, sides


def _example(kind: str) -> str:
  return f'{kind}:{SLICES[kind][1] if kind in SLICES else 8}'


def _offered(kind: str, sides: tuple[int, ...]) -> bool:
  if 'x'.join(map(str, sides)) in SLICES[kind]:
    return True
  cubes = SLICES[kind] is SOLID and len(sides) == 3
  return cubes and all(n and n % 4 == 0 for n in sides)


def _near(kind: str, chips_: int, most: int = 3) -> list[str]:
  """Slices of about so many chips."""
  shapes = [tuple(map(int, shape.split('x'))) for shape in SLICES[kind]]
  if SLICES[kind] is SOLID:
    sides = range(4, 25, 4)
    shapes += itertools.combinations_with_replacement(sides, 3)
  distance = lambda shape: abs(math.log(math.prod(shape) / max(chips_, 1)))
  shapes = sorted(shapes, key=lambda s: (distance(s), max(s)))[:most]
  return [f'{kind}:{"x".join(map(str, shape))}' for shape in shapes]


def _libtpu() -> str:
  """The library's path: TPU_LIBRARY_PATH, .venv/libtpu, or an installed one."""
  given = os.environ.get('TPU_LIBRARY_PATH')
  places = [given] if given else [Path(sys.prefix, 'libtpu/libtpu/libtpu.so')]
  package = importlib.util.find_spec('libtpu')
  if package and not given:
    places += [Path(package.submodule_search_locations[0], 'libtpu.so')]
  for place in places:
    if Path(place).is_file():
      return str(place)
  where = f'TPU_LIBRARY_PATH={given} is no file' if given else 'not installed'
  raise UserError(
    f'planning for a TPU needs libtpu ({where}): run launch/setup.sh plan'
  )
