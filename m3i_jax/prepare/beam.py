"""`prepare` as an Apache Beam pipeline, for sources that want a cluster.

  python -m m3i_jax.prepare.beam SOURCE --out=DIR [FLAG...] -- [OPTION...]

FLAGs are those of `python -m m3i_jax.prepare`, OPTIONs those of Beam, such as
--runner=DataflowRunner. It writes what the command writes, byte for byte.
Workers need this package, SOURCE and DIR under the same names.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

from m3i_jax import command
from m3i_jax.prepare import cli, writer
from m3i_jax.prepare.writer import Job, Task


def write(options: Sequence[str], job: Job, tasks: Sequence[Task]) -> None:
  """Writes the tasks' shards by a pipeline with these options."""
  import apache_beam

  flags = apache_beam.options.pipeline_options.PipelineOptions(list(options))
  with apache_beam.Pipeline(options=flags) as pipeline:
    _ = (
      pipeline
      | 'Parts' >> apache_beam.Create(list(tasks))
      | 'Spread' >> apache_beam.Reshuffle()
      | 'Write' >> apache_beam.Map(functools.partial(writer.write_part, job))
    )


def work(options: Sequence[str], source: str, values: Any) -> int:
  """The command; returns its exit code."""
  return cli.run(source, values, functools.partial(write, options))


def run(argv: list[str]) -> None:
  """Reads the command line, which stays without what is Beam's."""
  if '--help' in argv:
    print(__doc__)
  end = argv.index('--') if '--' in argv else len(argv)
  given = argv[end + 1 :]
  del argv[end:]
  command.run(cli.define, functools.partial(work, given), ('out',))


if __name__ == '__main__':
  run(sys.argv)
