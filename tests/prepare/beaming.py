"""`m3i_jax.prepare.beam`, only that its source is one of parts.NAMED."""

import sys

from m3i_jax.prepare import beam, cli
from tests.prepare import parts

if __name__ == '__main__':
  cli.recognise = lambda source, given: parts.NAMED[source]()
  beam.run(sys.argv)
