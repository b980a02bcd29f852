"""Whole runs of the debug configs: metrics, checkpoints, resume, SIGTERM."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs.table1 import image_classification
from m3i_jax import checkpoint, train
from m3i_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def start(config: str, workdir, *args: str) -> subprocess.Popen:
  quick = '--xla_backend_optimization_level=0'  # to compile
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': quick}
  return subprocess.Popen(
    [
      sys.executable, '-m', 'm3i_jax.main', f'--config=configs/{config}',
      f'--workdir={workdir}', *args,
    ],
    cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    text=True,
  )  # fmt: skip


def run(config: str, workdir, *args: str, code: int = 0) -> str:
  process = start(config, workdir, *args)
  out = process.communicate(timeout=400)[0]
  assert process.returncode == code, out
  return out


def rows(workdir) -> list[dict]:
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def losses(workdir) -> list[tuple]:
  return [
    (row['step'], row['loss'], row['loss/text'], row['lambda'])
    for row in rows(workdir)
  ]


def test_a_target_without_its_field_leaves_no_run_behind(tmp_path):
  c = image_classification.get_config('debug')
  c.data.label = ''
  with pytest.raises(UserError, match='config.targets.category predicts'):
    train.train(c, str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_bucket_is_no_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='mount the bucket'):
    train.train(image_classification.get_config('debug'), 'gs://bucket/run')
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """A complete run of ten steps."""
  workdir = tmp_path_factory.mktemp('unbroken')
  out = run('emoji.py:debug', workdir, '--config.total_steps=10')
  return workdir, out


def test_a_run_leaves_what_it_promises(unbroken):
  workdir, out = unbroken
  for row, step in zip(rows(workdir), range(1, 11), strict=True):
    assert row['step'] == step
    for term in ('category', 'inter', 'intra', 'text'):
      assert np.isfinite(row[f'loss/{term}'])
  assert 'eval/knn/top1' in rows(workdir)[-1]
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['10']
  page = (workdir / 'report.html').read_text()
  assert 'http://' not in page.replace('http://www.w3.org', '')
  for name in ('config.json', 'tokenizer.model', 'panel.png', 'results.json'):
    assert (workdir / name).stat().st_size > 0
  for word in ('raw pixels', 'untrained', 'trained', 'EMA', 'report.html'):
    assert word in out


def test_a_checkpoint_is_the_run(unbroken):
  workdir, _ = unbroken
  params = checkpoint.restore_params(workdir)
  ema = checkpoint.restore_params(workdir, 'ema')
  shapes = lambda tree: jax.tree.map(np.shape, tree)
  assert shapes(params['encoder']) == shapes(ema['encoder'])
  config = checkpoint.restore_config(workdir)
  assert config['total_steps'] == 10 and 'intra' in config['targets']


def test_killed_and_resumed_equals_unbroken_bitwise(unbroken, tmp_path):
  args = ('--config.total_steps=10', '--config.checkpoint_every=3')
  process = start('emoji.py:debug', tmp_path, *args)
  deadline = time.monotonic() + 300
  while not (tmp_path / 'checkpoints' / '3').exists():
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  process.kill()
  process.communicate()
  out = run('emoji.py:debug', tmp_path, *args)
  assert 'report:' in out
  assert losses(tmp_path) == losses(unbroken[0])
  same = jax.tree.map(
    np.array_equal,
    checkpoint.restore_params(tmp_path),
    checkpoint.restore_params(unbroken[0]),
  )
  assert all(jax.tree.leaves(same))


def test_sigterm_saves_and_the_same_line_goes_on(tmp_path):
  args = ('--config.total_steps=400', '--config.checkpoint_every=1000')
  process = start('emoji.py:debug', tmp_path, *args)
  deadline = time.monotonic() + 300
  while not (tmp_path / 'metrics.jsonl').exists() or not rows(tmp_path):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  out = process.communicate(timeout=120)[0]
  assert process.returncode == 75, out
  (saved,) = (tmp_path / 'checkpoints').iterdir()
  assert 1 <= int(saved.name) < 400
  assert int(saved.name) == rows(tmp_path)[-1]['step']
  assert f'step {saved.name} is saved' in out
  # Its own directory, but another config: refused, nothing lost.
  out = run(
    'emoji.py:debug', tmp_path, *args, '--config.seed=7', code=2
  )
  assert 'config.seed: 0 -> 7' in out and saved.exists()


@pytest.mark.parametrize('config', ['vitb.py:debug', 'm3i_nomix.py:debug'])
def test_every_config_runs_its_debug_variant(config, tmp_path):
  run(config, tmp_path)
  assert [row['step'] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
