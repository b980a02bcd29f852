"""The directory of a run: whose it is, and whether it has begun."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from m3i_jax import config as schema
from m3i_jax import files, metrics
from m3i_jax.errors import UserError


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
        raise UserError(
          f'{workdir} holds a run of another config ({"; ".join(changed)}): '
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


def begun(workdir: Path) -> bool:
  """Whether a run has left anything that a new one would overwrite."""
  logged = workdir / metrics.NAME
  return any((workdir / 'checkpoints').glob('*')) or (
    logged.exists() and logged.stat().st_size > 0
  )
