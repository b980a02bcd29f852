"""The log of a run's steps, read while the next step is on its way."""

import time
from collections.abc import Callable

import jax
import numpy as np

from m3i_jax import metrics
from m3i_jax.alarm import CollapseAlarm
from m3i_jax.incidents import Incidents
from m3i_jax.meter import Meter

# What of the state each row tells, and under which name.
COUNTS = {
  'replaced': 'replaced_pictures',
  'truncated': 'truncated_texts',
  'skipped': 'skipped_steps',
  'passed': 'passed_batches',
}
INNER = ('good', 'leaves', 'unsound', 'in_a_row', 'rollbacks', 'norm')
SLOW = 10  # percent of waiting for input that is worth a word
SETTLED = 20  # steps, before which the start of the loader tells


class StepLog:
  """Reads a step's metrics after the next step is on its way.

  every: steps between two rows. meter: of what a step costs. alarm: shown each
  row; what it says is printed. incidents: takes the steps that were left out.
  """

  def __init__(
    self, writer: metrics.Writer, bar: metrics.Progress, every: int,
    meter: Meter, alarm: CollapseAlarm, incidents: Incidents,
    limit: Callable[[int, int], None] = lambda *_: None,
  ):  # fmt: skip
    self.limit = limit
    self.writer, self.bar, self.every = writer, bar, every
    self.meter, self.alarm, self.incidents = meter, alarm, incidents
    self.pending = None
    self.good = True  # was the step read last
    self.first, self.hinted = True, False
    self._restart()

  def _restart(self):
    self.begun, self.steps, self.waited = time.perf_counter(), 0, 0.0

  def waiting(self, load):
    """load(), its time counted as waiting for input."""
    begun = time.perf_counter()
    result = load()
    self.waited += time.perf_counter() - begun
    return result

  def pause(self, work):
    """work(), its time not counted as training."""
    begun = time.perf_counter()
    result = self.meter.pause(work)
    self.begun += time.perf_counter() - begun
    return result

  def step(self, done: int, measured: dict[str, jax.Array]) -> None:
    """Takes the metrics of step `done`; tells those of the step before."""
    before, self.pending = self.pending, (done, measured)
    if before:
      self._tell(*before)

  def flush(self) -> None:
    """Tells the newest step now, if that has not been done."""
    pending, self.pending = self.pending, None
    if pending:
      self._tell(*pending, now=True)

  def _tell(self, done: int, measured, now: bool = False) -> None:
    # One step is computed while this one is read: the device never waits.
    self.good = bool(measured['good'])
    self.steps += 1
    if now or done % self.every == 0:
      self._row(done, jax.device_get(measured))
    else:
      self.bar.update(done)
    if not self.good:
      self.incidents.take(done, measured)

  def _row(self, done: int, measured: dict) -> None:
    seconds = (time.perf_counter() - self.begun) / self.steps
    samples = measured.pop('samples', None)
    row = {k: float(v) for k, v in measured.items() if k not in INNER}
    for key, name in COUNTS.items():
      if key in row:
        row[name] = int(row.pop(key))
    if samples is not None:
      row['samples'] = ''.join(f'{int(x):08x}' for x in np.asarray(samples))
    row |= self.meter.row(seconds)
    row['input_wait_percent'] = 100 * self.waited / (self.steps * seconds)
    for line in self.alarm.check(done, row):
      self.bar.print(line)
    row |= {f'alarm/{name}': 1.0 for name in sorted(self.alarm.active)}
    self.writer.write(done, row)
    self._hint(done, row['input_wait_percent'])
    self.bar.update(
      done, f'loss {row["loss"]:.3f}, {row["images_per_s"]:.0f} images/s'
    )
    self._restart()
    self.limit(done, row.get('replaced_pictures', 0))

  def _hint(self, done: int, waited: float) -> None:
    # The first row of a run that goes on has the start of the loader in it.
    first, self.first = self.first, False
    settled = not first and done >= SETTLED
    if waited > SLOW and settled and not self.hinted:
      self.hinted = True
      self.bar.print(
        f'step {done}: {waited:.0f} % of the time waits for pictures: raise '
        'config.data.workers, or config.data.threads'
      )
