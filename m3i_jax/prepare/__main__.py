"""python -m m3i_jax.prepare"""

import sys

from m3i_jax import command, prepare
from m3i_jax.prepare import cli

if __name__ == '__main__':  # its worker processes import this file
  if '--help' in sys.argv:
    print(prepare.__doc__)
  command.run(cli.define, cli.work, ('out',))
