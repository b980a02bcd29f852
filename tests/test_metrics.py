import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import metrics
from m3i_jax.errors import UserError


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def test_rows_are_valid_json_and_come_back(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.write(1, {'loss': jnp.float32(0.5), 'n': np.int32(3), 'note': 'x'})
  writer.write(2, {'loss': float('nan'), 'peak': jnp.float32('inf')})
  # Before the file is closed: a run that is killed loses no line.
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  refuse = pytest.fail
  rows = [json.loads(line, parse_constant=refuse) for line in lines]
  assert rows == [
    {'step': 1, 'loss': 0.5, 'n': 3, 'note': 'x'},
    {'step': 2, 'loss': None, 'peak': None},
  ]
  writer.close()
  assert metrics.read(tmp_path) == rows


def test_read_without_a_run_and_with_half_a_line(tmp_path):
  assert metrics.read(tmp_path) == []
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2, "lo')
  assert metrics.read(tmp_path) == [{'step': 1}]


def test_resume_drops_later_rows(tmp_path):
  writer = metrics.Writer(tmp_path)
  for step in range(1, 6):
    writer.write(step, {'loss': step})
  writer.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 6, "lo')  # what a kill leaves
  writer = metrics.Writer(tmp_path)
  writer.truncate(3)
  writer.write(4, {'loss': 40})
  writer.close()
  losses = [row['loss'] for row in metrics.read(tmp_path)]
  assert losses == [1, 2, 3, 40]
  assert not list(tmp_path.glob('*.tmp'))


def test_tensorboard_gets_the_numbers(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.write(1, {'a_loss': 0.5, 'words': 'not a number'})
  writer.close()
  events = b''.join(
    path.read_bytes() for path in (tmp_path / 'tensorboard').iterdir()
  )
  assert b'a_loss' in events and b'words' not in events


def test_unwritable_workdir_is_the_users_mistake(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write metrics to .*file'):
    metrics.Writer(tmp_path / 'file')


def test_a_log_gets_few_lines():
  log = io.StringIO()
  progress = metrics.Progress(1000, lines=10, file=log)
  for step in range(1, 1001):
    progress.update(step, 'loss 1.0')
  progress.close()
  lines = log.getvalue().splitlines()
  assert len(lines) == 10
  assert lines[-1].startswith('train 1000/1000 (100 %), ')
  assert lines[-1].endswith('00:00 left, loss 1.0')


def test_a_row_is_amended_where_it_stands(tmp_path):
  writer = metrics.Writer(tmp_path)
  for step in (1, 2, 3):
    writer.write(step, {'loss': step})
  writer.amend(2, {'eval/knn': np.float32(50), 'eval/bad': float('nan')})
  writer.write(4, {'loss': 4})
  rows = metrics.read(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  more = {'eval/knn': 50, 'eval/bad': None}
  assert rows[1] == {'step': 2, 'loss': 2} | more
  assert [p.name for p in tmp_path.glob('*.tmp')] == []


def test_a_terminal_gets_a_bar_that_starts_where_the_run_does():
  terminal = Terminal()
  progress = metrics.Progress(10, start=4, file=terminal)
  for step in range(5, 11):
    progress.update(step, f'loss {step}')
  progress.print('a line')
  progress.close()
  shown = terminal.getvalue()
  assert '4/10' in shown and '10/10' in shown and 'a line\n' in shown
