"""What a compiled step sends between devices, read from its HLO text.

`compiled.as_text()` of XLA for CPU, GPU and TPU. An operation in a loop counts
as often as the loop runs; one that starts and ends apart counts once.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = (
  'all-gather', 'reduce-scatter', 'all-reduce', 'all-to-all',
  'collective-permute',
)  # fmt: skip

_LINE = re.compile(r'\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\(')
_SHAPE = re.compile(r'\b([a-z]+\d+\w*|pred)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|_computations?)=(\{[^}]*\}|%[\w.-]+)')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One operation between devices.

  Attributes:
    kind: of KINDS.
    shape: of the array as HLO writes it, without layout; '+' joins several.
    payload: bytes of it on a device: gathered, or before it is scattered.
    group: how many devices (or slices) share it.
    times: how often a step does it.
    counted: False if a loop around it runs an unknown number of times, which
      counts as one.
    network: between slices, not over the links within one.
    source: the operation in JAX that it comes from; '' where XLA lost it.
  """

  kind: str
  shape: str
  payload: int
  group: int
  times: int
  counted: bool
  network: bool
  source: str

  @property
  def sent(self) -> float:
    """Bytes that a device sends in a step, along a ring of its group."""
    share = (self.group - 1) / self.group
    passes = {'all-reduce': 2 * share, 'collective-permute': 1}
    return self.times * self.payload * passes.get(self.kind, share)


@dataclasses.dataclass(frozen=True)
class _Line:
  name: str
  shape: str
  op: str
  rest: str  # operands and attributes
  root: bool

  def attribute(self, pattern: str) -> str:
    found = re.search(pattern, self.rest)
    return found[1] if found else ''

  def operands(self) -> list[str]:
    return re.findall(r'%([\w.-]+)', self.rest.partition(')')[0])


@dataclasses.dataclass
class _Module:
  computations: dict[str, dict[str, _Line]]
  entry: str
  devices: int


def collectives(text: str) -> list[Collective]:
  """All of them in a program, in the order of its computations."""
  module = _parse(text)
  return list(_walk(module, module.entry, 1, True, '', set()))


def summary(found: list[Collective]) -> dict[str, dict[str, float]]:
  """{'kind' or 'kind between slices': {'count', 'bytes', 'sent_bytes'}}."""
  table: dict[str, dict[str, float]] = {}
  for one in found:
    name = one.kind + ' between slices' * one.network
    row = table.setdefault(name, dict(count=0, bytes=0, sent_bytes=0.0))
    row['count'] += one.times
    row['bytes'] += one.times * one.payload
    row['sent_bytes'] += one.sent
  return table


def _parse(text: str) -> _Module:
  computations, entry, current = {}, '', {}
  for line in text.splitlines():
    if line.startswith(('%', 'ENTRY')) and line.endswith('{'):
      name = re.match(r'(?:ENTRY )?%?([\w.-]+)', line)[1]
      current = computations[name] = {}
      entry = name if line.startswith('ENTRY') else entry
    elif found := _LINE.match(line):
      root, name, shape, op = found.groups()
      current[name] = _Line(name, shape, op, line[found.end() :], bool(root))
  header = text.partition('\n')[0]
  sizes = re.findall(r'(?:num_partitions|replica_count)=(\d+)', header)
  return _Module(computations, entry, math.prod(map(int, sizes)))


def _walk(
  module: _Module, name: str, times: int, counted: bool, source: str, chains
) -> Iterator[Collective]:
  """Of one computation and those that it calls."""
  here: set[str] = set()  # chains of fusions that make one operation
  for line in module.computations[name].values():
    origin = line.attribute(r'op_name="([^"]*)"') or source
    kind = line.op.removesuffix('-start')
    if kind in KINDS:
      # A chain of fusions on a TPU repeats the operation that it is.
      chain = 'chain_id=' in line.rest and line.attribute(
        r'channel_id=(\d+)'
      )
      if chain not in chains:
        chains |= {chain} - {False}
        scatters = name.startswith('all-reduce-scatter')
        yield _collective(
          module, line, 'reduce-scatter' if scatters else kind, times,
          counted, origin,
        )  # fmt: skip
    elif line.op == 'send' and '_xla_megascale_target' in line.rest:
      yield _between_slices(line, times, counted, origin)
    elif line.op == 'while':
      trips = _trips(module, name, line)
      body = line.attribute(r'body=%([\w.-]+)')
      yield from _walk(
        module, body, times * (trips or 1), counted and trips is not None,
        origin, set(),
      )  # fmt: skip
    elif line.op in ('fusion', 'call', 'conditional', 'async-start'):
      shared = here if line.op == 'fusion' else set()
      called = ' '.join(_CALLED.findall(line.rest))
      for one in re.findall(r'%([\w.-]+)', called):
        yield from _walk(module, one, times, counted, origin, shared)


def _collective(module, line, kind, times, counted, source) -> Collective:
  shapes = _SHAPE.findall(line.shape)
  if line.op in ('all-gather-start', 'collective-permute-start'):
    shapes = [s for s in shapes if s != ('u32', '')]  # TPU: semaphores
    shapes = shapes[len(shapes) // 2 :]  # (what goes in, what comes out)
  group = _group(line.rest, module.devices)
  # A scatter within a fusion, as TPUs have it, is written as a reduction.
  parts = group if line.op.startswith('reduce-scatter') else 1
  payload = parts * sum(_bytes(*shape) for shape in shapes)
  return Collective(
    kind, _join(shapes), payload, group, times, counted, False, source
  )


def _between_slices(line, times, counted, source) -> Collective:
  """What the runtime of several TPU slices sends over their network."""
  kind = line.attribute(r'transfer_type="(\w+)"')
  kind = kind.lower().replace('_', '-').replace('one-to-one', KINDS[-1])
  slices = line.attribute(r'_xla_megascale_target="\{([\d,]+)\}')
  group = slices.count(',') + 1 if slices else 2
  shapes = _SHAPE.findall(line.shape)[:1]
  return Collective(
    kind, _join(shapes), _bytes(*shapes[0]), group, times, counted, True,
    source,
  )  # fmt: skip


def _bytes(dtype: str, dims: str) -> int:
  bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
  return math.prod(int(d) for d in dims.split(',') if d) * bits // 8


def _join(shapes) -> str:
  return '+'.join(f'{dtype}[{dims}]' for dtype, dims in shapes)


def _group(rest: str, devices: int) -> int:
  """How many devices share an operation, in any of HLO's three notations."""
  groups = rest.partition('replica_groups=')[2]
  if not groups:
    return 2  # pairs of a source and a target
  if groups.startswith('mesh['):
    mesh, _, after = groups.partition(']')
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh))
    # "{'x','y':(2)4}": all of x, and of y a part that is 4 long.
    axes = re.search(r'\{([^}]*)\}', after)[1]
    return math.prod(
      int(part or sizes[axis])
      for axis, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    )
  if groups.startswith('['):  # "[groups,members]<=[...]"
    return int(re.match(r'\[(?:\d+,)*(\d+)\]', groups)[1])
  first = re.match(r'\{\{([\d,]*)\}', groups)
  return first[1].count(',') + 1 if first else devices


def _trips(module: _Module, name: str, loop: _Line) -> int | None:
  """How often a loop runs; None if the text does not tell."""
  known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
  if known:
    return int(known)
  # XLA for TPU leaves it to the condition: a counter is less than a constant.
  condition = module.computations[loop.attribute(r'condition=%([\w.-]+)')]
  test = next(line for line in condition.values() if line.root)
  if test.op != 'compare' or 'direction=LT' not in test.rest:
    return None
  counter, limit = (condition.get(o) for o in test.operands())
  if counter.op != 'get-tuple-element' or limit.op != 'constant':
    return None
  index = int(counter.attribute(r'index=(\d+)'))
  caller = module.computations[name]
  start = caller[loop.operands()[0]]
  start = start.op == 'tuple' and caller[start.operands()[index]]
  while start and start.op in ('copy', 'bitcast', 'convert'):
    start = caller[start.operands()[0]]
  if not start or start.op != 'constant':
    return None
  value = lambda constant: int(constant.rest.partition(')')[0])
  return value(limit) - value(start)
