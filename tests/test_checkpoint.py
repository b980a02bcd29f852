import pathlib
import signal
import subprocess
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from m3i_jax import checkpoint, formats, guard
from m3i_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = {'lr': 0.1, 'targets': {'a': ['dense']}, 'none': None}


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  ema: Any
  opt_state: Any
  balance: Any


def make_state(rows: int = 8) -> State:
  params = {
    'encoder': {'kernel': jnp.arange(rows * 4.0).reshape(rows, 4)},
    'bias': jnp.arange(8.0),
  }
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
  gradients = jax.tree.map(lambda x: 0.1 * x + 1, params)
  _, moments = optimizer.update(gradients, optimizer.init(params), params)
  return State(
    step=jnp.asarray(3),
    params=params,
    ema={'bias': params['bias'] + 0.5},
    opt_state=moments,
    balance={'first': jnp.float32(0.25)},
  )


def on_mesh(tree: Any, *shape: int) -> Any:
  """The tree as abstract arrays whose first axis is split on the mesh."""
  axes = ('replica', 'fsdp')
  mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 2)

  def abstract(leaf):
    spec = PartitionSpec('fsdp') if leaf.ndim else PartitionSpec()
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)
    )

  return jax.tree.map(abstract, tree)


def assert_equal(a: Any, b: Any) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def saved(workdir: pathlib.Path, state: State, step: int = 4) -> None:
  checkpoints = checkpoint.Checkpoints(workdir, every=4)
  assert checkpoints.save(step, state, CONFIG)
  checkpoints.close()


@pytest.mark.parametrize('shape', [(1, 8), (4, 2), (8, 1)])
def test_restores_on_another_mesh(tmp_path, shape):
  state = make_state()
  shardings = jax.tree.map(lambda x: x.sharding, on_mesh(state, 2, 4))
  saved(tmp_path, jax.device_put(state, shardings))
  asked = on_mesh(state, *shape)
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  step, restored = checkpoints.restore(asked)
  checkpoints.close()
  assert step == 4
  assert_equal(restored, state)
  assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(
    lambda x: x.sharding, asked
  )


def test_restores_params_and_config_without_a_mesh(tmp_path):
  state = make_state()
  saved(tmp_path, jax.device_put(state, jax.devices()[5]))
  params = checkpoint.restore_params(tmp_path)
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
  assert_equal(params, jax.tree.map(np.asarray, state.params))
  ema = checkpoint.restore_params(tmp_path, 'ema')
  np.testing.assert_array_equal(ema['bias'], state.ema['bias'])
  assert checkpoint.restore_config(tmp_path) == CONFIG
  with pytest.raises(UserError, match='no .teacher.: it has balance, ema'):
    checkpoint.restore_params(tmp_path, 'teacher')


def test_saves_when_due_and_keeps_the_last(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, every=2, keep=2)
  state = make_state()
  did = [checkpoints.save(step, state, CONFIG) for step in range(1, 8)]
  assert did == [False, True, False, True, False, True, False]
  assert checkpoints.save(7, state, CONFIG, force=True)
  assert not checkpoints.save(7, state, CONFIG, force=True)
  checkpoints.wait()
  assert checkpoints.latest_step() == 7
  checkpoints.close()
  names = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert names == {'6', '7'}


def test_arrays_may_be_donated_after_save(tmp_path):
  overwrite = jax.jit(lambda x: 0 * x - 1, donate_argnums=0)
  checkpoints = checkpoint.Checkpoints(tmp_path, every=1)
  state = {'params': jnp.ones((16, 1 << 16))}
  checkpoints.save(1, state, CONFIG)
  overwrite(state['params']).block_until_ready()
  checkpoints.close()
  assert checkpoint.restore_params(tmp_path).min() == 1


def test_half_written_step_is_ignored_and_removed(tmp_path):
  state = make_state()
  saved(tmp_path, state)
  directory = tmp_path / 'checkpoints'
  orphan = directory / '8.orbax-checkpoint-tmp'
  (orphan / 'state').mkdir(parents=True)
  assert set(checkpoint.restore_params(tmp_path)) == {'encoder', 'bias'}
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4, keep=1)
  assert not orphan.exists()
  assert checkpoints.restore(on_mesh(state, 1, 8))[0] == 4
  assert checkpoints.save(8, state, CONFIG)
  checkpoints.close()
  assert [path.name for path in directory.iterdir()] == ['8']


def test_another_model_is_the_users_mistake(tmp_path):
  saved(tmp_path, make_state())
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  with pytest.raises(UserError) as error:
    checkpoints.restore(on_mesh(make_state(rows=16), 1, 8))
  assert 'encoder/kernel is (8, 4) there and (16, 4) here' in str(error.value)
  with pytest.raises(UserError, match='ema/bias is .8,. there and absent here'):
    checkpoints.restore(on_mesh(make_state(), 1, 8).replace(ema={}))
  checkpoints.close()


def test_nothing_to_restore_is_the_users_mistake(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  with pytest.raises(UserError, match='no complete checkpoint in'):
    checkpoints.restore(make_state())
  with pytest.raises(UserError, match='no complete checkpoint in'):
    checkpoint.restore_params(tmp_path / 'never')
  checkpoints.close()


def test_unwritable_workdir_is_the_users_mistake(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write checkpoints to .*file'):
    checkpoint.Checkpoints(tmp_path / 'file', every=4)


def run_python(program: str, *arguments: Any) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-c', program, *map(str, arguments)],
    cwd=ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip


FULL_DISK = """
import resource, sys
import jax, numpy as np
from m3i_jax.checkpoint import Checkpoints
from m3i_jax.errors import UserError
noise = np.random.default_rng(0).normal(size=1 << 18)
checkpoints = Checkpoints(sys.argv[1], every=1, keep=1)
checkpoints.save(1, {'params': jax.device_put(noise)}, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
checkpoints.save(2, {'params': jax.device_put(noise + 1)}, {})
try:
  checkpoints.wait()
except UserError as error:
  print(error)
"""


def test_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path):
  # A limit on the size of a file stands in for a disk that is full.
  done = run_python(FULL_DISK, tmp_path)
  assert done.stdout.startswith(f'cannot write checkpoints to {tmp_path}')
  assert 'File too large' in done.stdout
  assert 'Traceback' not in done.stderr
  noise = np.random.default_rng(0).normal(size=1 << 18)
  np.testing.assert_array_equal(
    checkpoint.restore_params(tmp_path), noise.astype(np.float32)
  )


def largest(directory: pathlib.Path) -> pathlib.Path:
  files = [path for path in directory.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-8])


def flip(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  'harm, told',
  [(cut, 'bytes instead of'), (flip, 'is not what was written'),
   (pathlib.Path.unlink, 'is missing')],
)  # fmt: skip
def test_a_corrupt_newest_step_gives_way_to_the_one_before(
  tmp_path, capsys, harm, told
):
  state = make_state()
  for step in (4, 8):
    saved(tmp_path, state.replace(step=jnp.asarray(step)), step)
  directory = tmp_path / 'checkpoints'
  harm(largest(directory / '8' / 'state'))
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  step, restored = checkpoints.restore(on_mesh(state, 1, 8))
  assert step == restored.step == 4
  warning = capsys.readouterr().err
  assert f'warning: {directory / "8"} cannot be read' in warning
  assert told in warning
  # It is kept under another name, and the run writes that step anew.
  assert (directory / '8.unreadable' / 'state').exists()
  assert checkpoints.save(8, state, CONFIG)
  checkpoints.wait()
  assert checkpoints.restore(on_mesh(state, 1, 8))[0] == 8
  flip(largest(directory / '8' / 'state'))
  assert checkpoints.restore(on_mesh(state, 1, 8))[0] == 4
  assert (directory / '8.unreadable1').exists()
  checkpoints.close()


def test_a_step_without_sums_that_cannot_be_read_is_set_aside(tmp_path):
  state = make_state()
  for step in (4, 8):
    saved(tmp_path, state, step)
  (tmp_path / 'checkpoints/8/files.json').unlink()
  cut(tmp_path / 'checkpoints/8/state/manifest.ocdbt')
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  assert checkpoints.restore(on_mesh(state, 1, 8))[0] == 4
  checkpoints.close()


def test_a_run_without_a_sound_step_does_not_start_again(tmp_path):
  state = make_state()
  saved(tmp_path, state)
  flip(largest(tmp_path / 'checkpoints/4'))
  for _ in range(2):  # also when it is started once more
    checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
    with pytest.raises(UserError, match='no checkpoint in .* can be read'):
      if checkpoints.latest_step() is not None:
        checkpoints.restore(on_mesh(state, 1, 8))
    checkpoints.close()


@flax.struct.dataclass
class Guarded:
  params: Any
  guard: Any
  counts: Any


@pytest.mark.parametrize('before, after', [(False, True), (True, False)])
def test_a_guard_may_count_more_or_less_than_was_saved(
  tmp_path, before, after
):
  def make(spike):
    return Guarded(jnp.arange(8.0), guard.init(spike), guard.init_counts())

  state = make(before)
  passed = state.guard | {'passed': jnp.uint32(5)}
  saved(tmp_path, state.replace(guard=passed))
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  _, restored = checkpoints.restore(on_mesh(make(after), 1, 8))
  checkpoints.close()
  asked = make(after)
  assert_equal(
    restored, asked.replace(guard=asked.guard | {'passed': jnp.uint32(5)})
  )


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(formats, 'CURRENT', 99)
  saved(tmp_path, make_state())
  monkeypatch.undo()
  checkpoints = checkpoint.Checkpoints(tmp_path, every=4)
  told = 'in format 99; this version, .*, reads formats up to 2: update'
  with pytest.raises(UserError, match=told):
    checkpoints.restore(on_mesh(make_state(), 1, 8))
  with pytest.raises(UserError, match=told):
    checkpoint.restore_config(tmp_path)
  checkpoints.close()
  assert (tmp_path / 'checkpoints/4').exists()


TRAIN = """
import sys, time
from m3i_jax import processes
from m3i_jax.checkpoint import Checkpoints
processes.initialize()
import jax.numpy as jnp
checkpoints = Checkpoints(sys.argv[1], every=10**6)
for step in range(1, 10**4):
  checkpoints.save(step, {'params': jnp.full(8, step)}, {})
  if checkpoints.reached_preemption(step):
    checkpoints.close()
    sys.exit(7)
  print(step, flush=True)
  time.sleep(0.02)
"""


def test_sigterm_saves_and_ends(tmp_path):
  process = subprocess.Popen(
    [sys.executable, '-c', TRAIN, str(tmp_path)],
    cwd=ROOT, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  for line in process.stdout:
    if int(line) == 3:
      process.send_signal(signal.SIGTERM)
      break
  rest = process.stdout.read().split()
  assert process.wait(timeout=60) == 7
  (step,) = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  # The step after the last one that was seen to be complete.
  assert step == int(([3] + rest)[-1]) + 1
  assert step < 1000
  np.testing.assert_array_equal(
    checkpoint.restore_params(tmp_path), np.full(8, step)
  )
