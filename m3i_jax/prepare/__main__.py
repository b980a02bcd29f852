"""python -m m3i_jax.prepare"""

from typing import Any

from m3i_jax import command, prepare
from m3i_jax.errors import UserError
from m3i_jax.prepare import cli

__doc__ = prepare.__doc__  # what --help prints


def work(source: str, values: Any) -> int:
  """The command; returns its exit code."""
  if values.workers < 1:
    raise UserError('--workers must be at least 1')
  return cli.work(source, values)


if __name__ == '__main__':  # its worker processes import this file
  command.run(cli.define, work, ('out',), what='SOURCE')
