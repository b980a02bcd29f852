"""python -m m3i_jax.prepare"""

from m3i_jax import command, prepare
from m3i_jax.prepare import cli

__doc__ = prepare.__doc__  # what --help prints

if __name__ == '__main__':  # its worker processes import this file
  command.run(cli.define, cli.work, ('out',), what='SOURCE')
