"""The collapse alarm: on rows made by hand, and on two short runs."""

import jax
import numpy as np
import pytest

from m3i_jax import build
from m3i_jax.alarm import ROWS, CollapseAlarm
from m3i_jax.optim import momentum
from m3i_jax.step import init_state, make_train_step
from tests import small
from tests.test_step import QUICK

GOOD = {'target_std': 0.5, 'target_rank': 2.5, 'cosine_across': 0.7}
SAME = {'target_std': 0.013, 'target_rank': 33.0, 'cosine_across': 0.9998}
LENGTH = {'target_std': 0.13, 'target_rank': 2.0, 'cosine_across': 0.9998}
LINE = {'target_std': 0.9, 'target_rank': 1.01, 'cosine_across': 0.1}


def feed(alarm, *rows, name='inter'):
  """The lines told, [] where a row tells none."""
  named = ({f'{k}/{name}': v for k, v in row.items()} for row in rows)
  return [alarm.check(50 * n, row) for n, row in enumerate(named, 1)]


@pytest.mark.parametrize(
  'row, told',
  [
    (SAME, ('same for every picture', 'target_std 0.013', 'rank 33')),
    (LENGTH, ('same for every picture', 'cosine_across 1')),
    (LINE, ('one direction', 'target_rank 1.01')),
  ],
)
def test_it_tells_once_when_it_lasts(row, told):
  alarm = CollapseAlarm(['inter', 'intra'])
  row = row | {'loss': 0.0005, 'floor': 0.0002}
  lines = feed(alarm, *[row] * (ROWS + 5))
  assert [len(x) for x in lines] == [0] * (ROWS - 1) + [1] + [0] * 5
  (line,) = lines[ROWS - 1]
  assert line.startswith(f'step {50 * ROWS}: target inter has collapsed')
  for part in (*told, 'loss 0.0005', 'floor 0.0002 for a constant', '\'ema\'',
               'config.targets.inter', 'config.ema.start', "norm='batch'"):
    assert part in line
  assert '\n' not in line and alarm.active == {'inter'}


def test_a_healthy_run_and_short_dips_are_silent():
  alarm = CollapseAlarm(['inter'])
  dip = [SAME] * (ROWS - 1) + [GOOD]
  assert not any(feed(alarm, *dip, *dip, *[GOOD] * 9)) and not alarm.active


def test_a_second_episode_is_told_again():
  alarm = CollapseAlarm(['inter'])
  assert sum(map(len, feed(alarm, *[SAME] * ROWS, GOOD, *[SAME] * ROWS))) == 1
  feed(alarm, *[GOOD] * ROWS)
  assert not alarm.active
  assert len(feed(alarm, *[LINE] * ROWS)[-1]) == 1


def test_each_target_has_its_own_line():
  alarm = CollapseAlarm(['a', 'b'])
  row = {f'{k}/{n}': v for n in 'ab' for k, v in SAME.items()}
  lines = [alarm.check(n, row) for n in range(ROWS)]
  assert [line.split()[3] for line in lines[-1]] == ['a', 'b']


def test_what_is_not_a_feature_target_is_passed_over():
  alarm = CollapseAlarm(['inter'])
  assert not any(feed(alarm, *[SAME] * 9, name='text'))
  assert not any(feed(CollapseAlarm([]), *[SAME] * 9))


HEALTHY = {k: v for k, v in small.M3I.items() if k != 'text'}
# SiameseIM's dense target, but by the online encoder, which its gradient
# reaches, and with neither a predictor nor the covariance term.
COLLAPSING = dict(
  inter=small.FEATURE
  | dict(
    of='b',
    representation=dict(kind='dense', encoder='shared'),
    regularizer='none',
  )
)


def rows(c, steps):
  """The metrics of each step on pictures that differ."""
  objective = small.small_objective(c)
  mu = momentum(**c.ema, total_steps=steps)
  optimizer = build.optimizer(c).build(steps)
  train_step = make_train_step(objective, optimizer, mu, c.seed)
  batches = [pictures(seed, c.batch_size) for seed in range(4)]
  state = jax.jit(lambda: init_state(objective, optimizer, 0, batches[0]))()
  train_step = jax.jit(train_step).lower(state, batches[0]).compile(QUICK)
  for n in range(steps):
    state, measured = train_step(state, batches[n % len(batches)])
    yield n + 1, {k: float(v) for k, v in measured.items() if not np.ndim(v)}


def pictures(seed, size):
  """Each of a colour of its own under noise."""
  batch = small.draw_batch(seed, size)
  colour = np.random.default_rng(seed).integers(0, 256, (size, 1, 1, 3))
  for view in 'ab':
    image = 0.4 * colour + 0.6 * batch[view]['image']
    batch[view]['image'] = image.astype(np.uint8)
  return batch


@pytest.mark.parametrize(
  'targets, images, collapsed',
  [(COLLAPSING, 1, {'inter'}), (HEALTHY, 2, set())],
)
def test_it_tells_a_run_built_to_collapse(targets, images, collapsed):
  c = small.small_config(targets, images=images)
  c.batch_size = 16
  c.optimizer.learning_rate = 0.01
  c.ema.start = 0.9  # not to be healthy by standing still
  watched = CollapseAlarm([n for n in c.targets if n.startswith('int')])
  lines = []
  for step, row in rows(c, 40):
    if step % 4 == 0:  # what is logged
      lines += watched.check(step, row)
  assert watched.active == collapsed and len(lines) == len(collapsed)
