"""Runs that are killed and go on, here and elsewhere; old ones that go on.

Small whole runs, each in processes of its own, with a compile cache for all.
"""

import json
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from m3i_jax import checkpoint, errors
from tests import several

HERE = pathlib.Path(__file__).parent
# Of how fast it went, not of what was computed.
TIMES = {
  'step_ms', 'images_per_s', 'images_per_s_per_chip', 'mfu_percent',
  'recompiles', 'host_memory_gib', 'memory_gib', 'memory_peak_gib',
  'input_wait_percent',
}  # fmt: skip


def rows(workdir: pathlib.Path) -> dict[int, dict]:
  """{step: its metrics} without times."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [row['step'] for row in found] == list(range(1, len(found) + 1))
  return {
    row['step']: {k: v for k, v in row.items() if k not in TIMES}
    for row in found
  }


@pytest.fixture(scope='module')
def cache(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def run(cache):
  """Runs `tests.killed MOMENT` in a workdir: [(exit code, output)]."""

  def go(workdir, moment='never', count=1, devices=1, config='small_run'):
    return several.finish(
      several.start(
        [
          '-m', 'tests.killed', moment, f'--workdir={workdir}',
          f'--config=tests/fixtures/{config}.py',
        ],
        count, devices, JAX_COMPILATION_CACHE_DIR=str(cache),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
      ),
      600,
    )  # fmt: skip

  return go


@pytest.fixture(scope='module')
def unbroken(run, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('unbroken')
  ((code, output),) = run(workdir)
  assert code == 0, output
  assert rows(workdir)[6]['replaced_pictures'] > 6  # and they are damaged
  return workdir


def same_state(a: pathlib.Path, b: pathlib.Path, **close) -> None:
  """Their newest states: bitwise, or as close as numpy's assert_allclose."""
  for item in ('params', 'ema', 'opt_state', 'balance', 'guard', 'counts'):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, **{'rtol': 0} | close),
      checkpoint.restore_params(a, item), checkpoint.restore_params(b, item),
    )  # fmt: skip


def test_killed_in_a_step_a_save_an_evaluation_nothing_is_lost(
  run, unbroken, tmp_path
):
  for moment in ('step:2', 'save:3', 'evaluation:4'):
    ((code, output),) = run(tmp_path, moment)
    assert code == -9, output
    if moment == 'save:3':
      (half,) = (tmp_path / 'checkpoints').iterdir()
      assert half.name.startswith('3.orbax-checkpoint-tmp')
  ((code, output),) = run(tmp_path)
  assert code == 0, output
  assert rows(tmp_path) == rows(unbroken)
  same_state(tmp_path, unbroken)


def test_several_processes_are_one_and_stop_and_go_on_as_another_number(
  run, unbroken, tmp_path
):
  # Two processes of two devices; the second one gets SIGTERM.
  for code, output in run(tmp_path, 'term:3', count=2, devices=2):
    assert code == errors.STOPPED, output
  saved = max(rows(tmp_path))
  assert 3 <= saved < 5
  # One process of four devices, on another mesh; first it gets a Ctrl-C before
  # it has done a step.
  ((code, output),) = run(tmp_path, 'early', devices=4)
  assert code == errors.STOPPED, output
  assert max(rows(tmp_path)) == saved + 1
  ((code, output),) = run(tmp_path, devices=4)
  assert code == 0, output
  found, asked = rows(tmp_path), rows(unbroken)
  assert found.keys() == asked.keys()
  for step, row in asked.items():
    assert found[step].keys() == row.keys()
    for name, value in row.items():
      if name in ('samples', 'replaced_pictures') or name.startswith('eval/'):
        assert found[step][name] == value, (step, name)
      elif isinstance(value, float):
        # Sums in another order, after up to six steps of Adam.
        np.testing.assert_allclose(
          found[step][name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )
  for item in ('params', 'ema'):
    jax.tree.map(
      # Adam divides by gradients near 0: a share of its steps of 1e-3.
      lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=5e-4),
      checkpoint.restore_params(tmp_path, item),
      checkpoint.restore_params(unbroken, item),
    )


def test_a_run_of_format_1_goes_on(run, tmp_path):
  with tarfile.open(HERE / 'fixtures/format1.tar.xz') as archive:
    archive.extractall(tmp_path, filter='data')
  before = rows(tmp_path)
  assert max(before) == 6  # of which the first three are in its checkpoint
  assert not (tmp_path / 'checkpoints/3/files.json').exists()
  ((code, output),) = several.finish(several.start(
    ['-m', 'm3i_jax.main', '--config=tests/fixtures/format1.py',
     f'--workdir={tmp_path}'],
  ))  # fmt: skip
  assert code == 0, output
  after = rows(tmp_path)
  assert [after[n] for n in (1, 2, 3)] == [before[n] for n in (1, 2, 3)]
  for step in (4, 5, 6):
    for name in ('loss', 'lambda', 'grad_norm'):
      # Compiled by another version of the code.
      np.testing.assert_allclose(
        after[step][name], before[step][name], rtol=1e-4, err_msg=name
      )
    assert after[step]['skipped_steps'] == 0
    assert len(after[step]['samples']) == 16
  assert checkpoint.restore_params(tmp_path, 'guard')['passed'] == 0
  assert checkpoint.restore_config(tmp_path)['guard']['patience'] == 3
