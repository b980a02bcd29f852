"""What a run tells: metrics.jsonl, TensorBoard events, a progress bar.

metrics.jsonl in a run's directory holds one JSON object a line, with `step`
and whatever that step reported. JSON has no NaN: a number that is not finite
is written as null. TensorBoard reads the same numbers from the directory.
"""

import json
import math
import numbers
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from m3i_jax import files
from m3i_jax.errors import UserError

NAME = 'metrics.jsonl'


class Writer:
  """Appends metrics to the files of a run; only process 0 does."""

  def __init__(self, workdir: str | os.PathLike):
    self._workdir = pathlib.Path(workdir)
    self._file = self._events = None
    if jax.process_index() == 0:
      self._open()

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes one line at once; values are numbers, scalar arrays or text."""
    if self._file is None:
      return
    row = {'step': int(step)} | {k: _plain(v) for k, v in metrics.items()}
    try:
      self._file.write(json.dumps(row, allow_nan=False) + '\n')
      self._file.flush()
      os.fsync(self._file.fileno())  # of a mounted bucket: it is uploaded
    except OSError as error:
      raise self._refusal(error) from error
    self._show(step, metrics)

  def amend(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Adds to the row of a step, which has been written."""
    if self._file is None or not metrics:
      return
    more = {k: _plain(v) for k, v in metrics.items()}
    rows = read(self._workdir)
    self.close()
    self._rewrite([r | more if r['step'] == step else r for r in rows])
    self._open()
    self._show(step, metrics)

  def truncate(self, step: int) -> None:
    """Drops what was written after `step`, to which the run has gone back."""
    if self._file is None:
      return
    self.close()
    self._rewrite([r for r in read(self._workdir) if r['step'] <= step])
    self._open(purge_step=step + 1)

  def _show(self, step: int, metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
      value = _scalar(value)
      if isinstance(value, numbers.Real) and math.isfinite(value):
        self._events.add_scalar(name, value, step)

  def _rewrite(self, rows: list[dict[str, Any]]) -> None:
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    try:
      files.write(self._workdir / NAME, text)
    except OSError as error:
      raise self._refusal(error) from error

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._events.close()

  def _open(self, purge_step: int | None = None) -> None:
    try:
      self._workdir.mkdir(parents=True, exist_ok=True)
      self._file = (self._workdir / NAME).open('a')
      self._events = SummaryWriter(
        str(self._workdir / 'tensorboard'), purge_step=purge_step
      )
    except OSError as error:
      raise self._refusal(error) from error

  def _refusal(self, error: OSError) -> UserError:
    return UserError(
      f'cannot write metrics to {self._workdir} ({error.strerror}): free some '
      'space, or name a workdir that can be written'
    )


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a run in order."""
  return read_lines(pathlib.Path(workdir) / NAME)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a JSONL file; leaves out a line that a kill cut short."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


class Progress:
  """Where a loop is: a bar with the time left, or a line each few percent.

  The bar is for a terminal; a log file gets about `lines` lines in all.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    name: str = 'train',
    lines: int = 20,
    file: TextIO | None = None,
  ):
    self._file = file or sys.stderr
    self._total, self._start, self._name = total, start, name
    self._every = max(1, total // lines)
    self._began = time.monotonic()
    self._bar = None
    if jax.process_index() == 0 and self._file.isatty():
      self._bar = tqdm(
        total=total, initial=start, desc=name, file=self._file,
        dynamic_ncols=True,
      )  # fmt: skip

  def update(self, step: int, note: str = '') -> None:
    """Shows that `step` steps are done, and a note such as the loss."""
    if self._bar is not None:
      if note:
        self._bar.set_postfix_str(note, refresh=False)
      self._bar.update(step - self._bar.n)
    elif jax.process_index() == 0 and (
      step % self._every == 0 or step == self._total
    ):
      print(self._line(step, note), file=self._file, flush=True)

  def print(self, line: str) -> None:
    """Prints a line above the bar."""
    if self._bar is not None:
      self._bar.write(line, file=self._file)
    elif jax.process_index() == 0:
      print(line, file=self._file, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def _line(self, step: int, note: str) -> str:
    passed = time.monotonic() - self._began
    done = max(1, step - self._start)
    left = passed / done * (self._total - step)
    return (
      f'{self._name} {step}/{self._total} ({100 * step // self._total} %), '
      f'{tqdm.format_interval(passed)} so far, '
      f'{tqdm.format_interval(left)} left{", " * bool(note)}{note}'
    )


def _scalar(value: Any) -> Any:
  """A Python number of a scalar array; anything else as it is."""
  return value.item() if hasattr(value, 'item') else value


def _plain(value: Any) -> Any:
  value = _scalar(value)
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
