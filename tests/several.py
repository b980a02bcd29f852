"""Several processes of one run on this machine, for the tests."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
QUICK = '--xla_backend_optimization_level=0'  # to compile


def environment(devices: int = 1, **more: str) -> dict[str, str]:
  """That of a process which sees so many devices and compiles quickly."""
  flags = f'--xla_force_host_platform_device_count={devices} {QUICK}'
  kept = {k: v for k, v in os.environ.items() if not k.startswith('M3I_')}
  return kept | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags} | more


def start(
  arguments: list, count: int = 1, devices: int = 1, **more: str
) -> list[subprocess.Popen]:
  """`python ARGUMENTS` as each of `count` processes; their output is text."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  joined = lambda n: {
    'M3I_COORDINATOR': address,
    'M3I_PROCESSES': str(count),
    'M3I_PROCESS_ID': str(n),
  }
  return [
    subprocess.Popen(
      [sys.executable, *map(str, arguments)], cwd=ROOT, text=True,
      env=environment(devices, **(joined(n) if count > 1 else {}), **more),
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    for n in range(count)
  ]  # fmt: skip


def finish(
  processes: list[subprocess.Popen], seconds: float = 300
) -> list[tuple[int, str]]:
  """[(exit code, output)]; none is left behind."""
  try:
    outputs = [p.communicate(timeout=seconds)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()
  return [(p.returncode, o) for p, o in zip(processes, outputs, strict=True)]
