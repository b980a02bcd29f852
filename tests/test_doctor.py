"""What the doctor says of machines that are sound, and of others."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from configs import emoji
from m3i_jax import checkup, doctor

ROOT = pathlib.Path(__file__).parents[1]


def command(*flags: str, **env) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.doctor', *flags], cwd=ROOT,
    env=os.environ | env, capture_output=True, text=True, timeout=600,
  )  # fmt: skip


def lines(done: subprocess.CompletedProcess) -> dict[str, str]:
  """{what was looked at: its line}."""
  found = [x for x in done.stdout.splitlines() if x[:4].strip()]
  return {x[6:15].strip(): x for x in found}


@pytest.mark.slow
def test_a_sound_machine_takes_three_steps(tmp_path):
  flags = '--xla_backend_optimization_level=0'
  done = command(f'--workdir={tmp_path}/runs/a', XLA_FLAGS=flags)
  assert done.returncode == 0, done.stdout + done.stderr
  found = lines(done)
  assert list(found) == [
    'libraries', 'devices', 'cache', 'host', 'data', 'splits', 'text', 'disk',
    'smoke run',
  ]  # fmt: skip
  warned = found.pop('text')  # the longest tags of some captions are cut
  assert warned.startswith('warn') and '26 would fit' in warned
  assert all(x.startswith('ok') for x in found.values()), done.stdout
  assert '1 cpu (cpu)' in found['devices']
  assert 'emoji64 train: 2,608 pictures, 95 classes' in found['data']
  assert '3 steps, loss' in found['smoke run']
  assert not list(tmp_path.iterdir())


def test_an_accelerator_that_was_asked_for_is_missed():
  done = command('--platform=gpu', '--config=configs/vitb.py')
  assert done.returncode == 1
  found = lines(done)
  assert found['devices'].startswith('fail')
  assert '--platform=gpu was asked for' in found['devices']
  assert 'smoke run' not in found
  # The data set of this config is not here.
  assert found['data'].startswith('fail') and 'tfds build' in found['data']


def test_a_silent_fallback_is_a_failure(tmp_path):
  (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\n')
  (tmp_path / 'nvidia-smi').chmod(0o755)
  path = f'{tmp_path}:{os.environ["PATH"]}'
  page = tmp_path / 'a' / 'new' / 'page.html'
  flags = ('--nosmoke', '--full', f'--page={page}')
  done = command(*flags, PATH=path, JAX_PLATFORMS='')
  assert done.returncode == 1
  assert lines(done)['page'].startswith('ok') and page.exists()
  assert 'nvidia-smi is here, and yet JAX runs on the CPU' in (
    lines(done)['devices']
  )


def test_a_mistake_in_the_flags():
  done = command('--config=configs/no.py')
  assert done.returncode == 2
  assert 'configs/no.py' in done.stderr and 'Traceback' not in done.stderr
  done = command('--page=README.md/page.html')
  assert done.returncode == 2 and not lines(done).get('devices')
  assert done.stderr.startswith('m3i_jax: --page=README.md/page.html: cannot')


def test_libraries_that_are_missing_or_old(tmp_path):
  (tmp_path / 'requirements.txt').write_text(
    'numpy>=99  # new\nno_such_package\n# a comment\njax\n'
  )
  found = checkup.libraries(tmp_path)
  assert found.status == 'fail' and found.todo == 'launch/setup.sh'
  assert f'numpy is {np.__version__}, not >=99' in found.told
  assert 'no_such_package is missing' in found.told and 'jax' not in found.told


def test_whatever_a_look_raises_is_a_failure(capsys):
  def look():
    raise OSError('no\nsuch thing')

  assert doctor.looked_at('disk', look).status == 'fail'
  assert capsys.readouterr().out == 'fail  disk       no such thing\n'


def test_devices_that_do_not_answer(monkeypatch):
  def wait(*args, timeout, **rest):
    raise subprocess.TimeoutExpired('python', timeout)

  monkeypatch.setattr(subprocess, 'run', wait)
  found = checkup.accelerators('')
  assert found.status == 'fail' and 'did not find its devices' in found.told


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', f'{tmp_path}/file/cache')
  found = checkup.cache()
  assert found.status == 'warn' and 'compiles again' in found.told
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', f'{tmp_path}/new')
  assert checkup.cache().status == 'ok'


def test_little_shared_memory_for_workers(monkeypatch):
  small = types.SimpleNamespace(total=64 * 2**20)
  monkeypatch.setattr(checkup.shutil, 'disk_usage', lambda path: small)
  assert '/dev/shm' in checkup.host(workers=4).told
  assert '/dev/shm' not in checkup.host(workers=0).told


@pytest.mark.parametrize(
  ('free', 'status'), [(0.1, 'fail'), (3, 'warn'), (500, 'ok')]
)
def test_room_for_checkpoints(monkeypatch, tmp_path, free, status):
  usage = types.SimpleNamespace(free=int(free * 2**30))
  monkeypatch.setattr(checkup.shutil, 'disk_usage', lambda path: usage)
  config = emoji.get_config('debug')
  config.model.update(width=512, hidden=2048, depth=8, heads=8)
  found = checkup.disk(config, tmp_path)
  assert found.status == status, found.told


@pytest.mark.parametrize(
  ('code', 'losses', 'made', 'status', 'said'),
  [
    (0, [1, 2, 3], ['checkpoints/3', 'report.html'], 'ok', '3 steps'),
    (0, [1, 2, 3], ['checkpoints/3'], 'fail', 'report.html is missing'),
    (0, [1, None, 3], [], 'fail', '3 steps, loss 1, 3'),
    (0, [1], [], 'fail', '1 steps'),
    (2, [], [], 'fail', 'exit code 2: config.x: wrong'),
  ],
)
def test_how_a_smoke_run_is_judged(
  monkeypatch, tmp_path, code, losses, made, status, said
):
  def run(words, **rest):
    flags = dict(x.split('=', 1) for x in words[3:])
    assert flags['--config'] == 'configs/vitb.py:debug'
    assert int(flags['--config.batch_size']) == 24
    workdir = pathlib.Path(flags['--workdir'])
    rows = [json.dumps({'loss': x}) + '\n' for x in losses]
    (workdir / 'metrics.jsonl').write_text(''.join(rows))
    for name in made:
      (workdir / name).mkdir(parents=True)
    told = 'W1 noise\nm3i_jax: config.x: wrong\nnoise\n'
    return types.SimpleNamespace(returncode=code, stderr=told)

  monkeypatch.setattr(subprocess, 'run', run)
  found = checkup.smoke('configs/vitb.py:late', 'tpu', 6, tmp_path)
  assert found.status == status and said in found.told
