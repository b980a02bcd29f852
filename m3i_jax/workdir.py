"""The directory of a run: whose it is, and whether it has begun."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from m3i_jax import config as schema
from m3i_jax import files, metrics
from m3i_jax.errors import UserError

_NAMED = 5  # changes, of those that are refused


def claim(config: ConfigDict, workdir: Path, accept: bool = False) -> list[str]:
  """Makes the run's directory, or checks that it is this run's.

  Args:
    accept: a run that has begun may go on with another config.
  Returns:
    what is accepted, 'key: old -> new'.
  Raises:
    UserError: it cannot be written, or holds a run of another config.
  """
  path = workdir / 'config.json'
  new, accepted = schema.as_json(config), []
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists():
      changed = schema.differences(json.loads(path.read_text()), new)
      if changed and not begun(workdir):
        # A mistake ended it before its first step; this is its correction.
        (workdir / 'tokenizer.model').unlink(missing_ok=True)
      elif changed and not accept:
        more = len(changed) - _NAMED
        named = changed[:_NAMED] + [f'{more} more'] * (more > 0)
        raise UserError(
          f'{workdir} holds a run of another config ({"; ".join(named)}): '
          'name another --workdir, go on with the config of that run, or give '
          '--accept_changes'
        )
      else:
        accepted = changed
    files.write(path, json.dumps(new, indent=2))
  except OSError as error:
    raise UserError(
      f'cannot write to --workdir {workdir} ({error.strerror}): name a '
      'directory that can be written'
    ) from error
  return accepted


def same_data(
  workdir: Path, records: tuple[int, ...], classes: tuple[str, ...],
  accept: bool = False,
) -> None:  # fmt: skip
  """Keeps what the run's data are, or checks that they still are.

  Args:
    records: of each source. classes: the names of the labels.
    accept: a run that has begun may go on with other data.
  Raises:
    UserError: the order of the pictures, or the numbers of the classes, would
      be others than those that the run began with.
  """
  path = workdir / 'data.json'
  new = dict(records=list(records), classes=list(classes))
  old = json.loads(path.read_text()) if path.exists() else new
  if old != new and begun(workdir) and not accept:
    raise UserError(
      f'{path}: the run began with {_told(old)}, the data have {_told(new)}: '
      'go on with those, name another --workdir, or give --accept_changes'
    )
  files.write(path, json.dumps(new, indent=1))


def _told(data: dict) -> str:
  """Of equal numbers the difference is in the names."""
  records = ' + '.join(f'{count:,}' for count in data['records'])
  names = ', '.join(data['classes'][:3])
  some = f' ({names}, ...)' if names else ''
  return f'{records} records and {len(data["classes"]):,} classes{some}'


def begun(workdir: Path) -> bool:
  """Whether a run has left anything that a new one would overwrite."""
  logged = workdir / metrics.NAME
  return any((workdir / 'checkpoints').glob('*')) or (
    logged.exists() and logged.stat().st_size > 0
  )
