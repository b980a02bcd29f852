"""Whether JAX runs on the devices that were wanted.

JAX falls back to the CPU without an error when an accelerator's plugin is
missing, or of another version, or finds no device.
"""

import importlib.metadata
import pathlib
import shutil
from typing import Any

import jax
import jaxlib
import numpy as np

from m3i_jax import specs
from m3i_jax.errors import UserError

PLATFORMS = ('cpu', 'gpu', 'tpu')
# The packages that bring each platform to JAX.
PLUGINS = {
  'gpu': ('jax-cuda13-plugin', 'jax-cuda12-plugin', 'jax-rocm7-plugin'),
  'tpu': ('libtpu',),
}
_INSTALL = {'gpu': 'launch/setup.sh cuda12 (or cuda13)',
            'tpu': 'launch/setup.sh tpu'}  # fmt: skip
_LOOK = {
  'gpu': 'see that `nvidia-smi` lists it and that its driver is new enough',
  'tpu': 'see that this is a TPU VM and that no other process holds its chips',
}


def check(platform: str) -> None:
  """Does nothing if JAX runs on `platform`: cpu, gpu, tpu; '' is any.

  Raises:
    UserError: it runs on another one; says why, and what to do.
  """
  if not platform:
    return
  specs.one_of(platform, PLATFORMS, '--platform')
  found = running()
  if found != platform:
    raise UserError(
      f'--platform={platform} was asked for, and JAX {jax.__version__} runs '
      f'on {found}: {_advice(platform)}'
    )


def fallback() -> str:
  """A warning if JAX has only the CPU where an accelerator seems to be; or ''.

  Nothing is said when JAX_PLATFORMS asks for the CPU first.
  """
  if _first() == 'cpu' or running() != 'cpu':
    return ''
  for platform in PLUGINS:
    signs = present(platform) + [f'the package {n}' for n in plugins(platform)]
    if _first() == platform:
      signs.insert(0, f'JAX_PLATFORMS={_asked()}')
    if signs:
      return (
        f'{", ".join(signs)} is here, and yet JAX runs on the CPU alone: '
        f'{_advice(platform)}; JAX_PLATFORMS=cpu if the CPU is meant'
      )
  return ''


def running() -> str:
  """The platform JAX has chosen: cpu, gpu or tpu.

  Raises:
    UserError: the one that JAX_PLATFORMS names cannot be had.
  """
  try:
    return jax.default_backend()
  except (RuntimeError, AssertionError) as error:
    told = str(error).partition(' (set')[0] or 'JAX found no such device'
    raise UserError(
      f'JAX_PLATFORMS={_asked()}: {told}: {_advice(_first())}'
    ) from error


def describe() -> dict[str, Any]:
  """What there is, as JSON values, after a product on each local device.

  Returns:
    platform, kind, count (of devices); bytes of memory of one, 0 if it does
    not tell; fallback, as above.
  """
  found = jax.local_devices()
  for device in found:
    x = jax.device_put(np.ones((128, 128), np.float32), device)
    if float((x @ x)[0, 0]) != 128:
      raise UserError(f'{device} computes wrongly: take it out of use')
  stats = found[0].memory_stats() or {}
  return dict(
    platform=running(), kind=found[0].device_kind, count=jax.device_count(),
    bytes=stats.get('bytes_limit', 0), fallback=fallback(),
  )  # fmt: skip


def plugins(platform: str) -> dict[str, str]:
  """{installed package: its version} of those that bring the platform."""
  found = {}
  for name in PLUGINS.get(platform, ()):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def present(platform: str, root: str = '/dev') -> list[str]:
  """What this machine shows of an accelerator, whatever is installed."""
  found = sorted(
    str(path)
    for pattern in {'gpu': ['nvidia[0-9]*'], 'tpu': ['accel[0-9]*']}[platform]
    for path in pathlib.Path(root).glob(pattern)
  )
  if platform == 'gpu' and shutil.which('nvidia-smi'):
    found.append('nvidia-smi')
  return found


def _asked() -> str:
  """What JAX_PLATFORMS allows; '' for anything."""
  return jax.config.jax_platforms or ''


def _first() -> str:
  """The platform that JAX_PLATFORMS names first, in the words of PLATFORMS."""
  name = _asked().split(',')[0]
  return 'gpu' if name in ('cuda', 'rocm') else name


def _advice(platform: str) -> str:
  """What to do so that JAX runs on the platform."""
  if platform not in PLUGINS:
    return 'start it with JAX_PLATFORMS=cpu'
  if _asked() == 'cpu':
    return 'JAX_PLATFORMS=cpu in the environment says so: unset it'
  installed = plugins(platform)
  if not installed:
    return f'no plugin for it is installed: {_INSTALL[platform]}'
  for name, version in installed.items():
    # A CUDA plugin is used by the jaxlib of its own version alone.
    if 'cuda' in name and version != jaxlib.__version__:
      return (
        f'{name} {version} is not for jaxlib {jaxlib.__version__}: '
        f'{_INSTALL[platform]}'
      )
  told = ', '.join(f'{name} {version}' for name, version in installed.items())
  return f'{told} finds no device: {_LOOK[platform]}'
