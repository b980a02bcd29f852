"""What the doctor looks at, one function each; every one gives a Finding.

Nothing but the standard library is imported before it is known to be here.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
GIB = 2**30
PROBE_SECONDS, SMOKE_SECONDS = 180, 1800
SPARE_DISK = 5 * GIB  # for what is not a checkpoint
_DEVICES = """
import json, sys
from m3i_jax import devices, errors
try:
  devices.check(sys.argv[1])
  print(json.dumps(devices.describe()))
except errors.UserError as error:
  print(json.dumps({'error': str(error)}))
"""


@dataclasses.dataclass(frozen=True)
class Finding:
  """What was seen of one thing.

  Attributes:
    status: 'ok', 'warn' or 'fail'.
    told: what was seen. todo: what to do about it, or ''.
    count: how many devices.
  """

  status: str
  told: str
  todo: str = ''
  count: int = 0


def libraries(root: pathlib.Path = ROOT) -> Finding:
  """Python, and the packages of requirements.txt, which need not be here."""
  python = '.'.join(map(str, sys.version_info[:3]))
  from packaging.requirements import Requirement

  lines = (root / 'requirements.txt').read_text().splitlines()
  lines = [line.partition('#')[0].strip() for line in lines]
  wanted = [Requirement(line) for line in lines if line]
  wrong, found = [], {}
  for requirement in wanted:
    try:
      found[requirement.name] = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
      wrong.append(f'{requirement.name} is missing')
      continue
    if not requirement.specifier.contains(found[requirement.name]):
      wrong.append(f'{requirement.name} is {found[requirement.name]}, '
                   f'not {requirement.specifier}')  # fmt: skip
  if wrong:
    return Finding('fail', '; '.join(wrong), 'launch/setup.sh')
  shown = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
  told = ', '.join(f'{name} {found[name]}' for name in shown if name in found)
  return Finding('ok', f'Python {python}, {told}')


def accelerators(platform: str) -> Finding:
  """The devices, seen by another process: here they would stay taken."""
  command = [sys.executable, '-c', _DEVICES, platform]
  try:
    done = subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, timeout=PROBE_SECONDS
    )
  except subprocess.TimeoutExpired:
    return Finding(
      'fail', f'JAX did not find its devices in {PROBE_SECONDS} s',
      'end what holds them (another run?); on a slice of several hosts run '
      'the doctor on all of them at once',
    )  # fmt: skip
  lines = done.stdout.splitlines()
  if done.returncode or not lines:
    return Finding('fail', _last(done.stderr), 'launch/setup.sh cuda12 | tpu')
  seen = json.loads(lines[-1])
  if 'error' in seen:
    return Finding('fail', seen['error'])
  told = f'{seen["count"]} {seen["kind"]} ({seen["platform"]})'
  if seen['bytes']:
    told += f', {_gib(seen["bytes"])} each'
  if seen['fallback']:
    return Finding('fail', f'{told}: {seen["fallback"]}')
  return Finding('ok', told, count=seen['count'])


def cache() -> Finding:
  """Where compiled programs are kept."""
  place = os.environ.get('JAX_COMPILATION_CACHE_DIR', '')
  if '://' in place:
    return Finding('ok', place)
  path = pathlib.Path(place or '~/.cache/m3i_jax').expanduser()
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
  except OSError as error:
    return Finding(
      'warn', f'{path} cannot be written ({error.strerror}): each start '
      'compiles again', 'JAX_COMPILATION_CACHE_DIR=DIR',
    )  # fmt: skip
  size = sum(x.stat().st_size for x in path.iterdir() if x.is_file())
  return Finding('ok', f'{path}, {_gib(size)}')


def host(workers: int) -> Finding:
  """Processors and memory; workers: processes that make batches."""
  told, shared = f'{os.cpu_count()} processors', pathlib.Path('/dev/shm')
  free = _free_memory()
  if free is not None:
    told += f', {_gib(free)} memory free'
    if free < 2 * GIB:
      return Finding('warn', told, 'end other programs')
  if workers and shared.exists() and shutil.disk_usage(shared).total < GIB:
    return Finding(
      'warn', f'{told}, less than 1 GiB in {shared} for config.data.workers',
      'docker run --shm-size=8g',
    )  # fmt: skip
  return Finding('ok', told)


def disk(config, workdir: pathlib.Path) -> Finding:
  """Room for the run's checkpoints, one more than it keeps."""
  import jax

  from m3i_jax import build
  from m3i_jax.program import Program

  # Classes and words are few of the parameters.
  objective = build.build(
    config, int(bool(config.data.label)),
    config.data.vocabulary if config.data.text else 0,
  )  # fmt: skip
  state = jax.eval_shape(Program(config, objective, None).init)
  each = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  wanted = (config.keep + 1) * each
  free = shutil.disk_usage(workdir).free
  told = (
    f'{_gib(free)} free at {workdir}; a checkpoint is {_gib(each)}, the run '
    f'holds up to {config.keep + 1}'
  )
  if free < wanted:
    return Finding('fail', told, 'free some space, or another --workdir')
  if free < wanted + SPARE_DISK:
    return Finding('warn', told, 'free some space')
  return Finding('ok', told)


def smoke(
  config: str, platform: str, devices: int, parent: pathlib.Path
) -> Finding:
  """Three steps of the config's :debug variant, by m3i_jax.main itself."""
  # A multiple of the devices, of pairs of pictures, and not below 16.
  batch = 2 * devices * max(1, -(-8 // devices))
  with tempfile.TemporaryDirectory(prefix='doctor-', dir=parent) as place:
    command = [
      sys.executable, '-m', 'm3i_jax.main', f'--platform={platform}',
      f'--config={config.partition(":")[0]}:debug', f'--workdir={place}',
      '--config.total_steps=3', f'--config.batch_size={batch}',
      '--config.mesh.replica=1', '--config.mesh.fsdp=-1',
      '--config.mesh.tensor=1', '--config.accumulate=1',
    ]  # fmt: skip
    begun = time.monotonic()
    try:
      done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                            timeout=SMOKE_SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
      return Finding('fail', f'no end of 3 steps in {SMOKE_SECONDS} s')
    if done.returncode:
      return Finding(
        'fail', f'exit code {done.returncode}: {_last(done.stderr)}',
        ' '.join(command),
      )  # fmt: skip
    return _judged(pathlib.Path(place), time.monotonic() - begun)


def _judged(workdir: pathlib.Path, seconds: float) -> Finding:
  """Whether the directory of the smoke run is that of a run."""
  with (workdir / 'metrics.jsonl').open() as file:
    losses = [json.loads(line)['loss'] for line in file]
  told = (
    f'{len(losses)} steps, loss {", ".join(f"{x:.3g}" for x in losses if x)}; '
    f'{seconds:.0f} s in all'
  )
  if len(losses) != 3 or None in losses:
    return Finding('fail', told, 'the loss must be finite in 3 steps')
  for name in ('checkpoints/3', 'report.html'):
    if not (workdir / name).exists():
      return Finding('fail', f'{told}; {name} is missing')
  return Finding('ok', f'{told}; checkpoint and report written')


def _free_memory() -> int | None:
  """Bytes; None where the system does not tell as Linux does."""
  try:
    with open('/proc/meminfo') as file:
      lines = dict(line.split(':') for line in file)
  except OSError:
    return None
  return 1024 * int(lines['MemAvailable'].split()[0])


def _gib(size: int) -> str:
  gib = size / GIB
  return f'{gib:,.0f} GiB' if gib >= 10 else f'{gib:.2g} GiB'


def _last(text: str) -> str:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  told = [line for line in lines if line.startswith('m3i_jax: ')]
  return (told or lines or ['nothing was said'])[-1].removeprefix('m3i_jax: ')
