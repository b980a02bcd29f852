"""What JAX runs on, against what was asked for and what the machine shows."""

import importlib.metadata

import jax
import jaxlib
import pytest

from m3i_jax import devices
from m3i_jax.errors import UserError


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """Pretends: machine(running=, asked=, packages=, files=, tools=)."""

  look = devices.present

  def pretend(running='cpu', asked='', packages=(), files=(), tools=()):
    def version(name):
      if name not in dict(packages):
        raise importlib.metadata.PackageNotFoundError(name)
      return dict(packages)[name]

    for name in files:
      (tmp_path / name).write_text('')
    monkeypatch.setattr(jax, 'default_backend', lambda: running)
    monkeypatch.setattr(devices, '_asked', lambda: asked)
    monkeypatch.setattr(importlib.metadata, 'version', version)
    monkeypatch.setattr(
      devices.shutil, 'which', lambda name: name if name in tools else None
    )
    monkeypatch.setattr(devices, 'present', lambda p: look(p, str(tmp_path)))

  return pretend


def refused(platform: str) -> str:
  with pytest.raises(UserError) as caught:
    devices.check(platform)
  return str(caught.value)


def test_what_is_wanted_is_there(machine):
  machine(running='gpu', packages={'libtpu': '0'}, tools=['nvidia-smi'])
  devices.check('gpu')
  devices.check('')
  assert devices.fallback() == ''


def test_a_bare_cpu_is_no_fallback(machine):
  machine()
  devices.check('')
  devices.check('cpu')
  assert devices.fallback() == ''


def test_no_plugin(machine):
  machine()
  said = refused('gpu')
  assert f'JAX {jax.__version__} runs on cpu: no plugin for it is inst' in said
  assert 'launch/setup.sh cuda12' in said
  assert refused('tpu').endswith('launch/setup.sh tpu')


def test_the_environment_asks_for_the_cpu(machine):
  machine(asked='cpu', files=['nvidia0'], packages={'libtpu': '1'})
  assert devices.fallback() == ''
  assert 'JAX_PLATFORMS=cpu in the environment says so' in refused('gpu')


def test_the_cpu_was_asked_for(machine):
  machine(running='gpu')
  assert refused('cpu').endswith('start it with JAX_PLATFORMS=cpu')


def test_an_unknown_platform(machine):
  machine()
  assert refused('cuda') == "--platform='cuda': choose from cpu, gpu, tpu"


def test_a_gpu_without_a_plugin(machine):
  machine(files=['nvidia0', 'nvidiactl'], tools=['nvidia-smi'])
  said = devices.fallback()
  assert 'nvidia0, nvidia-smi is here, and yet JAX runs on the CPU' in said
  assert 'launch/setup.sh cuda12' in said and 'nvidiactl' not in said
  assert '\n' not in said


def test_a_plugin_of_another_version(machine):
  machine(packages={'jax-cuda12-plugin': '0.4.1'})
  assert f'0.4.1 is not for jaxlib {jaxlib.__version__}' in devices.fallback()


def test_a_plugin_that_finds_no_device(machine):
  machine(packages={'jax-cuda13-plugin': jaxlib.__version__})
  assert 'finds no device: see that `nvidia-smi`' in devices.fallback()
  machine(packages={'libtpu': '0.0.42'}, files=['accel0'])
  said = devices.fallback()
  assert said.startswith('/') and 'accel0, the package libtpu is here' in said
  assert 'no other process holds its chips' in said


def test_a_platform_that_cannot_start(machine, monkeypatch):
  machine(asked='cuda')

  def unable():
    raise RuntimeError("Unable to initialize backend 'cuda'")

  monkeypatch.setattr(jax, 'default_backend', unable)
  said = refused('gpu')
  assert said.startswith("JAX_PLATFORMS=cuda: Unable to initialize backend 'c")
  assert said.endswith('launch/setup.sh cuda12 (or cuda13)')


def test_cuda_or_else_the_cpu(machine):
  """JAX says nothing when the first of JAX_PLATFORMS cannot be had."""
  machine(asked='cuda,cpu')
  said = devices.fallback()
  assert said.startswith('JAX_PLATFORMS=cuda,cpu is here, and yet JAX runs on')
