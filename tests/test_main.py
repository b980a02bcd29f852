"""The command line: each mistake is one line and exit code 2, at once."""

import os
import pathlib
import subprocess
import sys

import pytest

from m3i_jax import main

ROOT = pathlib.Path(__file__).parents[1]
EMOJI = '--config=configs/emoji.py:debug'


def command(*args: str) -> subprocess.CompletedProcess:
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.main', *args],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    timeout=240,
  )


def refused(*args: str) -> str:
  """Runs with bad input; the one line it prints."""
  done = command(*args)
  assert done.returncode == 2, done
  lines = [x for x in done.stderr.splitlines() if x.startswith('m3i_jax: ')]
  assert len(lines) == 1 and 'Traceback' not in done.stderr, done.stderr
  return lines[0]


def test_misspelt_key_names_the_nearest(tmp_path):
  line = refused(EMOJI, f'--workdir={tmp_path}', '--config.batchsize=3')
  assert "--config.batchsize: no such key in the config" in line
  assert "did you mean 'batch_size'?" in line


def test_missing_flags_and_files(tmp_path):
  assert '--config is missing' in refused(f'--workdir={tmp_path}')
  assert '--workdir is missing' in refused(EMOJI)
  line = refused('--config=configs/no.py', f'--workdir={tmp_path}')
  assert 'configs/no.py' in line and 'No such file' in line


def test_unknown_variant(tmp_path):
  line = refused('--config=configs/emoji.py:big', f'--workdir={tmp_path}')
  assert "no variant 'big'" in line and 'debug' in line


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--config.batch_size=15', 'multiple of 2'),
    ('--config.image_size=50', 'no multiple of the patch side 8'),
    ('--config.data.source=/nowhere', "no prepared data set '/nowhere'"),
    ('--config.data.source=tfds:mnist', 'tfds build mnist'),
    ('--config.total_steps=0', 'must be positive'),
    ('--config.evals.knn.test=tset', "cannot read split 'tset'"),
    ('--config.evals.knn.label=lable', "no field 'lable'"),
    ('--config.mesh.fsdp=3', 'the nearest are 1 x 1 x 1'),
    ('--config.accumulate=3', 'in 3 parts: choose a multiple of 6, such as 12'),
    ('--config.guard.patience=0', 'patience must be at least 1'),
    ('--profile=5', 'say START:STOP'),
    ('--platform=tpu', '--platform=tpu was asked for'),
    ('--config.targets.text.decoder=poole', "'poole' is not in"),
  ],
)
def test_impossible_values(tmp_path, flag, said):
  assert said in refused(EMOJI, f'--workdir={tmp_path}', flag)


def test_unwritable_workdir(tmp_path):
  (tmp_path / 'file').write_text('')
  line = refused(EMOJI, f'--workdir={tmp_path}/file/run')
  assert 'cannot write to --workdir' in line


def test_the_last_config_counts(tmp_path):
  line = refused(
    '--config=configs/no.py', EMOJI, f'--workdir={tmp_path}',
    '--config.total_steps=0',
  )  # fmt: skip
  assert line == 'm3i_jax: config.total_steps=0: it must be positive'


def test_help_suffices():
  text = command('--help').stdout
  for word in ('--config', '--workdir', 'debug', 'Exit codes'):
    assert word in text


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (KeyError(), 'KeyError()'),
    (AttributeError("module 'recipes' has no attribute 'f'"), "attribute 'f'"),
    (AttributeError('"\'batchsize\'"'), 'batchsize: no such key'),
    (KeyError('Key "batchsize" does not exist'), 'batchsize: no such key'),
  ],
)
def test_explain_tells_what_a_config_file_lacks(error, said):
  assert said in main.explain(error, [])


def test_explain_reads_the_last_line_of_a_config_files_own_error():
  error = ValueError('Traceback ...\n  File "x"\nm3i_jax.UserError: so and so')
  assert main.explain(error, []) == 'so and so'
