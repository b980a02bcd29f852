import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

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


SCRIPTS = [
  path.name
  for path in sorted((ROOT / 'launch').iterdir())
  if path.suffix in ('.sh', '.sbatch')
]
# Sourced, or sent to a host: not for a user to call.
INNER = ('common.sh', 'tpu_startup.sh')


@pytest.mark.parametrize('script', [x for x in SCRIPTS if x not in INNER])
def test_help_changes_nothing(tmp_path, script):
  shutil.copytree(ROOT / 'launch', tmp_path / 'launch')
  done = subprocess.run(
    ['bash', str(tmp_path / 'launch' / script), '-h'],
    capture_output=True, text=True, check=True, cwd=tmp_path,
  )  # fmt: skip
  assert f'launch/{script}' in done.stdout and 'set -euo' not in done.stdout
  assert 'SBATCH' not in done.stdout.replace('OF SBATCH', '')
  assert [path.name for path in tmp_path.iterdir()] == ['launch']


def test_shellcheck_finds_nothing():
  # SC2015: `A && B || C` is meant where C is to run when B fails, too.
  done = subprocess.run(
    ['shellcheck', '--external-sources', '--exclude=SC2015',
     *(f'launch/{name}' for name in SCRIPTS)],
    cwd=ROOT, capture_output=True, text=True,
    env=os.environ | {'PATH': f'{os.path.dirname(sys.executable)}:'
                              f'{os.environ["PATH"]}'},
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('name', [*SCRIPTS, 'gke_jobset.yaml', 'Dockerfile'])
def test_every_way_is_short_and_ends_in_main(name):
  text = (ROOT / 'launch' / name).read_text()
  lines = text.splitlines()
  if name in ('common.sh', 'setup.sh', 'test.sh', 'tpu_host.sh'):
    return
  assert 'm3i_jax.main' in text
  assert len(lines) <= 65 and max(map(len, lines)) <= 80


def again(tmp_path, program: str, **env) -> subprocess.Popen:
  (tmp_path / 'program').write_text(program)
  return subprocess.Popen(
    ['bash', str(ROOT / 'launch/again.sh'), 'bash', 'program'],
    cwd=tmp_path, env=os.environ | {'PAUSE': '0'} | env,
    stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('codes', 'runs', 'ends'),
  [
    ('0', 1, 0), ('2', 1, 2), ('70', 1, 70), ('1', 1, 1),
    ('74 75 137 0', 4, 0), ('75 70', 2, 70), ('74 74 74 74', 3, 74),
  ],
)  # fmt: skip
def test_again_runs_what_a_restart_mends(tmp_path, codes, runs, ends):
  program = f'echo >>ran; exit $(echo {codes} | cut -d" " -f$(wc -l <ran))'
  process = again(tmp_path, program, RESTARTS='2' if '74 74' in codes else '9')
  told = process.communicate(timeout=30)[1]
  assert process.returncode == ends, told
  assert len((tmp_path / 'ran').read_text().splitlines()) == runs
  assert told.count('restart') == runs - 1 + ('no more' in told)


def test_again_passes_sigterm_on_and_ends(tmp_path):
  process = again(
    tmp_path,
    'trap "sleep .3; touch saved; exit 75" TERM\n'
    'touch begun; while :; do sleep .02; done',
  )
  while not (tmp_path / 'begun').exists():
    assert process.poll() is None
    time.sleep(0.02)
  process.terminate()
  told = process.communicate(timeout=30)[1]
  assert (tmp_path / 'saved').exists() and process.returncode == 75
  assert told == ''


def test_a_tpu_host_gets_python_the_bucket_and_jax(tmp_path):
  """Commands that are not there are fakes; what is there is not made again."""
  shutil.copytree(ROOT / 'launch', tmp_path / 'launch')
  (tmp_path / 'launch/setup.sh').write_text('echo setup $PYTHON "$@" >>calls\n')
  tools = tmp_path / 'tools'
  tools.mkdir()

  def fake(name, text):
    (tools / name).write_text(f'#!/bin/bash\n{text}\n')
    (tools / name).chmod(0o755)

  for name in ('gcsfuse', 'curl', 'lsb_release'):
    fake(name, f'echo {name} "$@" >>calls')
  (tools / 'gcsfuse').rename(tmp_path / 'gcsfuse')
  fake('sudo', 'case "$*" in *install*gcsfuse) cp gcsfuse tools;; '
               'tee*) cat >/dev/null;; esac')  # fmt: skip
  fake('python3', 'case "$*" in -c*) exit 1;; *find*) echo /python3.12;; esac')
  fake('mountpoint', 'grep -q "^gcsfuse" calls')
  env = os.environ | {'PATH': f'{tools}:/usr/bin:/bin'}
  for _ in range(2):
    done = subprocess.run(
      ['bash', 'launch/tpu_host.sh', 'bucket'], cwd=tmp_path, env=env,
      capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
  calls = (tmp_path / 'calls').read_text().splitlines()
  mounts = [x for x in calls if x.startswith('gcsfuse')]
  assert mounts == [
    'gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 bucket /mnt/bucket'
  ]
  assert [x for x in calls if x.startswith('setup')] == [
    'setup /python3.12 tpu'
  ] * 2


def test_the_image_holds_what_is_copied():
  text = (ROOT / 'launch/Dockerfile').read_text()
  ignored = (ROOT / '.dockerignore').read_text().splitlines()
  copied = [
    name
    for line in re.findall(r'^COPY (.*)$', text, re.M)
    for name in line.split()[:-1]
  ]
  assert ignored[0] == '*' and copied
  for name in copied:
    assert (ROOT / name).exists() and f'!{name}' in ignored
  assert text.endswith('ENTRYPOINT ["python", "-m", "m3i_jax.main"]\n')


def test_the_readme_names_what_is_there():
  text = (ROOT / 'launch/README.md').read_text()
  named = re.findall(r'launch/(\w+\.\w+|Dockerfile)', text)
  assert set(named) <= {x.name for x in (ROOT / 'launch').iterdir()}
  for name in SCRIPTS:
    assert name in text or name in INNER
