"""How long a loop waits for its checkpoints."""

import contextlib
import pathlib
import statistics
import tempfile
import time

import jax

from m3i_jax.checkpoint import Checkpoints

SAVES = 3
INTERVAL = 100  # steps between two checkpoints, of which the wait is a share


def bench(train_step, state, batch, steps: int) -> dict[str, float]:
  """Times steps, then saves with steps while each is written.

  Args:
    train_step: (state, batch) -> (state, metrics).
    steps: timed ones, before the first save and after each.
  Returns:
    'save_ms' that the loop waits for `save`, the longest but the first, which
    opens files and threads; 'stall_percent', that over 100 steps;
    'slowed_percent', with what writing takes from the steps beside it.
  """

  def some(state) -> tuple:
    times = []
    for _ in range(steps):
      begun = time.perf_counter()
      state, measured = train_step(state, batch)
      jax.block_until_ready(measured)
      times.append(time.perf_counter() - begun)
    return state, times

  state, _ = train_step(state, batch)
  state, plain = some(state)
  median = statistics.median(plain)
  waits, beside, writes = [], [], []
  with tempfile.TemporaryDirectory() as workdir, contextlib.closing(
    Checkpoints(workdir, every=1, keep=1)
  ) as checkpoints:
    for number in range(1 + SAVES):
      begun = time.perf_counter()
      checkpoints.save(1 + number, state, {})
      waits.append(time.perf_counter() - begun)
      state, times = some(state)
      beside.append(sum(times) - steps * median)
      checkpoints.wait()
      writes.append(time.perf_counter() - begun)
    size = sum(
      path.stat().st_size
      for path in pathlib.Path(workdir).rglob('*')
      if path.is_file()
    )
  wait, lost = max(waits[1:]), max(0.0, statistics.median(beside[1:]))
  return {
    'step_ms': 1e3 * median,
    'state_bytes': sum(x.nbytes for x in jax.tree.leaves(state)),
    'written_bytes': size,
    'first_save_ms': 1e3 * waits[0],
    'save_ms': 1e3 * wait,
    'stall_percent': 100 * wait / (INTERVAL * median),
    'slowed_percent': 100 * (wait + lost) / (INTERVAL * median),
    'done_after_s': max(writes[1:]),
  }
