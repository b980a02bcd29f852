"""The benchmark of checkpoints, on a state of one array."""

import jax
import jax.numpy as jnp
import pytest

from m3i_jax.bench import checkpoint


def test_every_number_is_of_the_run():
  step = jax.jit(
    lambda state, batch: ({'a': state['a'] + batch}, batch), donate_argnums=0
  )
  state = {'a': jnp.zeros(1000)}
  got = checkpoint.bench(step, state, jnp.float32(1), 2)
  assert got['state_bytes'] == 4000
  # One checkpoint is kept; arrays are written compressed, beside metadata.
  assert 500 < got['written_bytes'] < 20000
  share = 100 * got['save_ms'] / (100 * got['step_ms'])
  assert got['stall_percent'] == pytest.approx(share)
  assert got['slowed_percent'] >= got['stall_percent'] > 0
  assert got['done_after_s'] > got['save_ms'] / 1e3
