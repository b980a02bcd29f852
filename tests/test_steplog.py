"""The log of steps: rows, counters, what is printed, what goes back."""

import io

import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import alarm, metrics, steplog
from m3i_jax.incidents import Incidents, Rollback


class Machine:
  """A meter that knows one step's time."""

  def row(self, seconds):
    return {'step_ms': 1e3 * seconds, 'images_per_s': 16 / max(seconds, 1e-9)}

  def pause(self, work):
    return work()


def step_log(tmp_path, every=2, patience=3):
  writer = metrics.Writer(tmp_path)
  bar = metrics.Progress(8, file=io.StringIO())
  incidents = Incidents(
    tmp_path,
    ['encoder/kernel', 'encoder/bias'],
    lambda position, rows: [f'{position}:{row}' for row in rows],
    patience,
    1,
    bar.print,
  )
  watch = alarm.CollapseAlarm(['inter'])
  return steplog.StepLog(
    writer, bar, every, Machine(), watch, incidents
  )


def measured(good=True, in_a_row=0, rows=(), **more):
  """What a step of four inputs hands out."""
  unsound = np.zeros(4, bool)
  unsound[list(rows)] = True
  return {
    'loss': jnp.float32(1),
    'grad_norm': jnp.float32(2),
    'good': jnp.bool_(good),
    'leaves': jnp.array([False, not good]),
    'unsound': jnp.asarray(unsound),
    'in_a_row': jnp.uint32(in_a_row),
    'skipped': jnp.uint32(5),
    'rollbacks': jnp.uint32(0),
    'passed': jnp.uint32(7),
  } | more


def told(log):
  return log.bar._file.getvalue().splitlines()


def test_a_step_is_told_when_the_next_is_on_its_way(tmp_path):
  log = step_log(tmp_path)
  for step in range(1, 5):
    log.step(step, measured(loss=jnp.float32(step)))
  assert [row['step'] for row in metrics.read(tmp_path)] == [2]
  log.flush()
  log.flush()  # once is enough
  log.writer.amend(4, {'eval/knn': 7.0})
  rows = metrics.read(tmp_path)
  assert [row['step'] for row in rows] == [2, 4]
  assert rows[1]['eval/knn'] == 7.0
  assert rows[1]['images_per_s'] == pytest.approx(16e3 / rows[1]['step_ms'])
  assert 0 <= rows[1]['input_wait_percent'] <= 100


def test_a_row_has_the_state_of_the_counters_and_the_digest(tmp_path):
  log = step_log(tmp_path, every=1)
  digest = jnp.array([0xDEADBEEF, 7], jnp.uint32)
  log.step(1, measured(samples=digest, replaced=jnp.uint32(3)))
  log.step(2, measured(truncated=jnp.uint32(4)))
  log.flush()
  one, two = metrics.read(tmp_path)
  assert one['samples'] == 'deadbeef00000007'
  assert one['replaced_pictures'] == 3 and 'truncated_texts' not in one
  assert one['skipped_steps'] == 5 and one['passed_batches'] == 7
  assert two['truncated_texts'] == 4 and 'samples' not in two
  assert not set(one) & set(steplog.INNER)


def test_a_step_that_was_left_out_is_told_with_what_it_was(tmp_path):
  log = step_log(tmp_path, every=10)
  bad = measured(
    False, 1, (2,), **{'loss/text': jnp.float32(np.inf), 'loss/b': 1.0}
  )
  log.step(3, bad)
  log.flush()
  (line,) = [line for line in told(log) if 'left out' in line]
  assert 'step 3' in line and 'loss/text' in line and 'encoder/bias' in line
  assert '9:2' in line and 'loss/b,' not in line  # position: 3 - 1 + 7 passed
  assert metrics.read(tmp_path)[0]['loss/text'] is None
  (row,) = metrics.read_lines(tmp_path / 'incidents.jsonl')
  assert row['terms'] == ['loss/text'] and row['rows'] == [2]
  assert row['parameters'] == ['encoder/bias'] and row['pictures'] == ['9:2']
  assert not log.good
  log.step(4, measured())
  log.flush()
  assert log.good


def test_when_all_inputs_are_unsound_none_is_to_blame(tmp_path):
  log = step_log(tmp_path)
  log.step(1, measured(False, 1, range(4), loss=jnp.float32(np.nan)))
  log.flush()
  (row,) = metrics.read_lines(tmp_path / 'incidents.jsonl')
  assert row['rows'] == row['pictures'] == [] and row['loss'] == 'nan'


def test_patience_ends_in_a_rollback(tmp_path):
  log = step_log(tmp_path, every=10, patience=2)
  log.step(5, measured(False, 1))
  with pytest.raises(Rollback) as caught:
    log.step(6, measured(False, 2))
    log.step(7, measured(False, 3))
  assert caught.value.step == 6
  assert int(caught.value.guard['passed']) == 7


def test_a_collapse_is_printed_once_and_marked(tmp_path):
  log = step_log(tmp_path, every=1)
  for step in range(1, alarm.ROWS + 3):
    log.step(step, measured(**{'target_std/inter': jnp.float32(0.01)}))
  log.flush()
  assert sum('target inter has collapsed' in line for line in told(log)) == 1
  marks = [row.get('alarm/inter') for row in metrics.read(tmp_path)]
  assert marks == [None] * (alarm.ROWS - 1) + [1.0] * 3


@pytest.mark.parametrize(
  ('begin', 'told_at'), [(1, steplog.SETTLED), (1000, 1001)]
)
def test_waiting_for_pictures_is_told_once_after_the_start(
  tmp_path, monkeypatch, begin, told_at
):
  clock = [0.0]
  monkeypatch.setattr(steplog.time, 'perf_counter', lambda: clock[0])
  log = step_log(tmp_path, every=1)

  def load():
    clock[0] += 1.0

  for step in range(begin, told_at + 3):
    log.waiting(load)
    clock[0] += 3.0
    log.step(step, measured())
    log.flush()
  rows = metrics.read(tmp_path)
  assert rows[1]['input_wait_percent'] == pytest.approx(25)
  hints = [line for line in told(log) if 'waits for pictures' in line]
  assert len(hints) == 1 and 'config.data.workers' in hints[0]
  assert hints[0].startswith(f'step {told_at}: 25 % of the time waits')
