"""The encoder in parts of the batch: the same losses, the same gradient."""

import jax
import numpy as np
import pytest

from m3i_jax import gradient, sharding
from m3i_jax.gradient import Teachers, loss_and_gradient
from m3i_jax.models import placement
from m3i_jax.optim import Optimizer
from m3i_jax.step import init_state
from tests import small

CLIP = {'text': small.TEXT}
# Negatives and batch statistics of the whole batch, behind shared encoders.
BARLOW = dict(
  pair=dict(
    of='b', representation=dict(kind='global', encoder='shared'),
    decoder='project', distribution='correlation',
    regularizer='decorrelation',
  )
)  # fmt: skip
CASES = {
  'm3i': (small.M3I, {}),
  'clip': (CLIP, dict(images=1, mask=0.0)),
  'barlow': (BARLOW, dict(images=1, mask=0.0)),
}


def results(objective, state, parts, batch):
  """(loss, gradient, lambda's averages, metrics)."""

  def run(params, ema, batch):
    found = loss_and_gradient(
      objective, params, Teachers(ema, {}), state.running, state.balance,
      batch, jax.random.key(3), parts,
    )  # fmt: skip
    return *found[:2], *found[3:]

  return jax.jit(run)(small.perturbed(state.params), state.ema, batch)


@pytest.mark.parametrize('case', CASES)
def test_parts_change_nothing(case):
  """No loss, no metric, no lambda, no gradient: also of batch-wide losses."""
  targets, input_ = CASES[case]
  objective = small.small_objective(small.small_config(targets, **input_))
  batch = small.draw_batch(1, 8)
  init = lambda: init_state(objective, Optimizer().build(10), 0, batch)
  state = jax.jit(init)()
  whole = results(objective, state, 1, batch)
  for parts in (2, 4):
    found = results(objective, state, parts, batch)
    np.testing.assert_allclose(found[0], whole[0], rtol=1e-6)
    small.same(found[1], whole[1], rtol=3e-5)
    small.same(found[2:], whole[2:], rtol=1e-5)


def test_parts_keep_pairs_and_rows():
  x = np.arange(24).reshape(12, 2)
  split = gradient._split(x, 3, 2)
  assert split[:, :, 0].tolist() == [
    [0, 2, 12, 14], [4, 6, 16, 18], [8, 10, 20, 22]
  ]  # fmt: skip
  np.testing.assert_array_equal(gradient._joined(split, 2), x)


def test_no_row_moves_between_devices():
  mesh = sharding.make_mesh(2, 4)
  rows = sharding.batch_sharding(mesh)
  with jax.set_mesh(mesh):
    x = jax.ShapeDtypeStruct((32, 5), np.float32, sharding=rows)
    there = jax.jit(
      lambda x: gradient._joined(gradient._split(x, 2, 2) + 1, 2),
      out_shardings=rows,
    )
    text = there.lower(x).compile().as_text()
  for word in ('all-gather', 'all-to-all', 'collective-permute', 'all-reduce'):
    assert word not in text
  assert placement.AXES == mesh.axis_names
