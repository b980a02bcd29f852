"""Time and memory of DCNv3 in the stages of InternImage-T and -H.

Every formulation, and where PyTorch is installed the usual one there: its
`grid_sample` on the padded map. All in turns, so that a busy machine hits all.
"""

import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import dcnv3

POINTS = 9
# Network: (side, groups, channels of a group, layers) of each stage.
STAGES = {
  'T at 224': [
    (56, 4, 16, 4), (28, 8, 16, 4), (14, 16, 16, 18), (7, 32, 16, 4),
  ],
  'H at 192': [
    (48, 10, 32, 6), (24, 20, 32, 6), (12, 40, 32, 32), (6, 80, 32, 6),
  ],
}  # fmt: skip
TORCH = 'PyTorch'


def bench(batch: int, steps: int, offset_std: float) -> None:
  """Prints a table, then all numbers as JSON."""
  speed = None if jax.default_backend() == 'cpu' else bandwidth()
  head = '', 'layers', 'forward', 'and backward', 'MiB', 'MiB', 'PyTorch /'
  print('{:22}{:>7}{:>12}{:>14}{:>7}{:>7}{:>11}'.format(*head))
  result = {}
  for network, stages in STAGES.items():
    rows = []
    for side, groups, channels, layers in stages:
      shape = batch, side, side, groups, channels
      runs = measured(shape, steps, offset_std)
      if speed:
        runs['ideal'] = ideal(shape, speed)
      print(f'{network}, {side} x {side} x {groups} x {channels}')
      rows.append({'shape': shape, 'layers': layers, 'runs': runs})
      show(runs, layers)
    print(f'{network}, all layers')
    result[network] = {'stages': rows, 'all': summed(rows)}
    show(result[network]['all'], sum(row['layers'] for row in rows))
  device = jax.devices()[0].device_kind
  settings = {'batch': batch, 'steps': steps, 'offset_std': offset_std}
  print(json.dumps(
    {**result, **settings, 'device': device, 'jax': jax.__version__}
  ))  # fmt: skip


def show(runs: dict[str, dict], layers: int) -> None:
  for name, run in runs.items():
    line = f'  {name:20}{layers:7}'
    line += f'{run["forward_ms"]:12.1f}{run["both_ms"]:14.1f}'
    for key in ('forward_mib', 'both_mib'):
      line += f'{run[key]:7.0f}' if key in run else ' ' * 7
    if TORCH in runs:
      line += f'{runs[TORCH]["both_ms"] / run["both_ms"]:10.2f}x'
    print(line)


def summed(rows: list[dict]) -> dict[str, dict]:
  """Times of all layers, of what runs in every stage."""
  names = [
    name for name in rows[0]['runs'] if all(name in r['runs'] for r in rows)
  ]
  times = 'forward_ms', 'both_ms'
  total = lambda name, key: sum(
    row['layers'] * row['runs'][name][key] for row in rows
  )
  return {name: {key: total(name, key) for key in times} for name in names}


def measured(
  shape: tuple[int, ...], steps: int, offset_std: float
) -> dict[str, dict]:
  """{formulation: forward_ms, both_ms (with backward), temporary MiB}."""
  arrays = drawn(shape, offset_std)
  calls, result = {}, {}
  for name in dcnv3.IMPLS:
    if name == 'onehot' and shape[1] * shape[2] > dcnv3.TPU_DENSE:
      continue  # a matrix of gigabytes
    programs = compiled(name, arrays)
    memory = [
      p.memory_analysis().temp_size_in_bytes / 2**20 for p in programs
    ]
    result[name] = dict(zip(('forward_mib', 'both_mib'), memory, strict=True))
    calls[name] = [on(program, arrays) for program in programs]
  try:
    calls[TORCH] = in_torch(arrays)
    result[TORCH] = {}
  except ImportError:
    pass
  times = {name: ([], []) for name in calls}
  for step in range(2 + steps):
    order = list(calls) if step % 2 else list(calls)[::-1]
    for name in order:
      for call, spent in zip(calls[name], times[name], strict=True):
        time.sleep(0.005)  # threads of the last one spin no more
        begun = time.perf_counter()
        call()
        spent.extend([1e3 * (time.perf_counter() - begun)] * (step >= 2))
  for name, (forward, both) in times.items():
    result[name]['forward_ms'] = statistics.median(forward)
    result[name]['both_ms'] = statistics.median(both)
  return result


def drawn(shape: tuple[int, ...], offset_std: float) -> list[np.ndarray]:
  """value, offset, modulation (sums to 1), and a cotangent; float32."""
  rng = np.random.default_rng(0)
  lead = shape[:4]
  value, cotangent = rng.normal(size=(2, *shape))
  offset = offset_std * rng.normal(size=(*lead, POINTS, 2))
  modulation = rng.dirichlet(np.ones(POINTS), size=lead)
  return [np.float32(x) for x in (value, offset, modulation, cotangent)]


def compiled(impl: str, arrays: list[np.ndarray]) -> list:
  """The programs of forward, and of forward and backward."""
  op = lambda *args: dcnv3.dcnv3(*args, kernel_size=3, impl=impl)

  def both(*args):
    out, pull = jax.vjp(op, *args[:3])
    return out, pull(args[3])

  forward = jax.jit(op).lower(*arrays[:3])
  return [forward.compile(), jax.jit(both).lower(*arrays).compile()]


def on(program, arrays: list[np.ndarray]) -> Callable[[], None]:
  args = jax.device_put(arrays[: len(program.in_avals[0])])
  return lambda: jax.block_until_ready(program(*args))


def bandwidth() -> float:
  """Bytes a second that a copy of 1 GiB reads and writes."""
  array = jnp.zeros(2**28)
  copy = jax.jit(lambda x: x + 1).lower(array).compile()
  times = []
  for _ in range(10):
    begun = time.perf_counter()
    jax.block_until_ready(copy(array))
    times.append(time.perf_counter() - begun)
  return 2 * array.nbytes / min(times)


def ideal(shape: tuple[int, ...], speed: float) -> dict[str, float]:
  """The time to read every input and write every output once."""
  channels, places = shape[-1], 3 * POINTS
  size = 4 * np.prod(shape[:-1])
  forward = size * (2 * channels + places) / speed
  backward = size * (3 * channels + 2 * places) / speed
  return {'forward_ms': 1e3 * forward, 'both_ms': 1e3 * (forward + backward)}


def in_torch(arrays: list[np.ndarray]) -> list[Callable[[], None]]:
  """Forward, and forward and backward; raises ImportError without PyTorch."""
  import torch

  gpu = jax.default_backend() == 'gpu' and torch.cuda.is_available()
  wait = torch.cuda.synchronize if gpu else lambda: None
  *args, cotangent = (
    torch.tensor(x, device='cuda' if gpu else 'cpu') for x in arrays
  )
  args = [x.requires_grad_() for x in args]

  def forward():
    with torch.no_grad():
      reference(torch, *args)
    wait()

  def both():
    torch.autograd.grad(reference(torch, *args), args, cotangent)
    wait()

  return [forward, both]


def reference(torch, value, offset, modulation):
  """K = 3 by `grid_sample` on a map with a border of one zero."""
  n, height, width, groups, channels = value.shape
  value = torch.nn.functional.pad(value, (0, 0, 0, 0, 1, 1, 1, 1))
  maps = value.permute(0, 3, 4, 1, 2).flatten(0, 1)
  size = torch.tensor([width + 2, height + 2], device=value.device)
  grid = torch.tensor(
    dcnv3.grid(3, 1, False), dtype=value.dtype, device=value.device
  )
  x, y = (torch.arange(k, device=value.device) for k in (width, height))
  own = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)
  places = own[:, :, None, None] + 1.5 + grid + offset
  places = (2 * places / size - 1).permute(0, 3, 1, 2, 4, 5)
  places = places.reshape(n * groups, height * width, POINTS, 2)
  read = torch.nn.functional.grid_sample(
    maps, places, mode='bilinear', padding_mode='zeros', align_corners=False
  )
  weights = modulation.permute(0, 3, 1, 2, 4)
  weights = weights.reshape(n * groups, 1, height * width, POINTS)
  out = (read * weights).sum(-1).view(n, groups, channels, height, width)
  return out.permute(0, 3, 4, 1, 2)
