"""Steps that were left out: said, kept in incidents.jsonl, and how many bear.

The step itself leaves out what is not finite (guard.py); this is the host's
part: which loss, parameter and pictures it was, and when to go back.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

NAME = 'incidents.jsonl'
SHOWN = 8  # pictures of a step that are named


class Rollback(Exception):
  """So many steps in a row were left out that the run should go back.

  Attributes:
    step: the last of them.
    guard: the state's, then.
  """

  def __init__(self, step: int, guard: dict[str, np.ndarray]):
    super().__init__(f'step {step}')
    self.step, self.guard = step, guard


class Incidents:
  """Takes the metrics of steps that were left out."""

  def __init__(
    self,
    workdir: Path,
    leaves: Sequence[str],
    pictures: Callable[[int, Sequence[int]], list[str]],
    patience: int,
    images: int,
    say: Callable[[str], None],
  ):
    """For one run.

    Args:
      leaves: names of the parameters, in the order of the gradient's leaves.
      pictures: ids of rows at a position in the data's order.
      patience: steps left out in a row before a rollback.
      images: of an input; two are neighbours in the batch.
      say: prints a line.
    """
    self.path, self.leaves, self.pictures = workdir / NAME, leaves, pictures
    self.patience, self.images, self.say = patience, images, say

  def take(self, done: int, measured: dict) -> None:
    """Tells of step `done`, which was left out.

    Raises:
      Rollback: it is the `patience`th in a row.
    """
    measured = jax.device_get(measured)
    row = self.describe(done, measured)
    self.write(row)
    blame = ', '.join(row['terms'] + row['parameters'][:1]) or (
      f'gradient norm {row["grad_norm"]:.3g} against usually '
      f'{float(measured.get("norm", 0)):.3g}'
    )
    often = row['in_a_row']
    how = f'{often} in a row' if often else 'a spike'
    ids = ', '.join(row['pictures']) or 'none alone'
    self.say(
      f'step {done} was left out, {how}: {blame}; '
      f'pictures: {ids} ({self.path.name})'
    )
    if row['in_a_row'] >= self.patience:
      guard = {
        k: measured[k] for k in ('skipped', 'in_a_row', 'rollbacks', 'passed')
      }
      raise Rollback(done, guard)

  def describe(self, done: int, measured: dict) -> dict:
    """One incident as JSON values."""
    finite = {
      k: bool(np.isfinite(v)) for k, v in measured.items() if np.ndim(v) == 0
    }
    rows = np.flatnonzero(measured['unsound'])
    if len(rows) == len(measured['unsound']):
      rows = rows[:0]  # all of them: none is to blame
    if self.images == 2:
      rows = np.unique([m for n in rows for m in (n, n ^ 1)]).astype(int)
    position = done - 1 + int(measured['passed'])
    return {
      'step': done,
      'event': 'left out',
      'process': jax.process_index(),
      'in_a_row': int(measured['in_a_row']),
      'terms': [
        k for k, fine in finite.items() if not fine and k[:5] == 'loss/'
      ],
      'parameters': [
        name
        for name, bad in zip(self.leaves, measured['leaves'], strict=True)
        if bad
      ][:SHOWN],
      'rows': rows[:SHOWN].tolist(),
      'pictures': self.pictures(position, rows[:SHOWN].tolist()),
    } | {
      k: float(measured[k]) if finite[k] else str(measured[k])
      for k in ('loss', 'grad_norm')
    }  # fmt: skip

  def write(self, row: dict) -> None:
    """Adds a line to the run's incidents; process 0 alone does."""
    if jax.process_index() == 0:
      with self.path.open('a') as file:  # closed: on a bucket, too
        file.write(json.dumps(row) + '\n')
