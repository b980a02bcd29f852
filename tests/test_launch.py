import os
import pathlib
import re
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]


def requirements(name: str) -> list[Requirement]:
  lines = (ROOT / name).read_text().splitlines()
  lines = [re.split(r'(?:^|\s)#', line)[0].strip() for line in lines]
  return [Requirement(line) for line in lines if line]


def key(requirement: Requirement) -> str:
  return requirement.name.lower().replace('_', '-')


@pytest.mark.parametrize('python', ['3.11', '3.12'])
def test_the_lock_satisfies_every_range(python):
  environment = {
    'python_version': python,
    'python_full_version': f'{python}.0',
    'sys_platform': 'linux',
  }
  locked = {
    key(pin): str(pin.specifier).removeprefix('==')
    for pin in requirements('requirements.lock')
    if pin.marker is None or pin.marker.evaluate(environment)
  }
  wanted = requirements('requirements.txt')
  for requirement in wanted + requirements('requirements-test.txt'):
    assert requirement.specifier.contains(locked[key(requirement)]), requirement


@pytest.fixture
def setup(tmp_path):
  """A copy of launch/setup.sh that finds only the given Python."""
  shutil.copytree(ROOT / 'launch', tmp_path / 'launch')

  def run(python: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      ['bash', str(tmp_path / 'launch/setup.sh'), *arguments],
      env={**os.environ, 'PYTHON': python}, capture_output=True, text=True,
    )  # fmt: skip

  for name in ('requirements.txt', 'requirements-test.txt'):
    (tmp_path / name).write_text('')
  (tmp_path / 'requirements.lock').write_text('')
  return run


def test_setup_without_a_python_is_one_line(setup, tmp_path):
  shim = tmp_path / 'python3.12'  # is there, and does not run
  shim.write_text('#!/bin/sh\nexit 127\n')
  shim.chmod(0o755)
  done = setup(f'no-python {shim}')
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr == (
    'setup: no Python 3.11 or newer: install one, or name it by PYTHON=/path\n'
  )
  assert not (tmp_path / '.venv').exists()


def test_setup_refuses_an_unknown_accelerator(setup):
  done = setup('python3', 'cuda')
  assert done.returncode == 2
  assert done.stderr.startswith("setup: unknown 'cuda': give cuda12, cuda13")


@pytest.mark.parametrize('script', ['local.sh', 'test.sh', 'setup.sh'])
def test_help_changes_nothing(tmp_path, script):
  shutil.copytree(ROOT / 'launch', tmp_path / 'launch')
  done = subprocess.run(
    ['bash', str(tmp_path / 'launch' / script), '-h'],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert f'launch/{script}' in done.stdout and 'set -euo' not in done.stdout
  assert [path.name for path in tmp_path.iterdir()] == ['launch']
