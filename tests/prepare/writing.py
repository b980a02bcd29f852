"""Writes a layout: in this process, or by the command, which can be killed.

  python -m tests.prepare.writing NAME --out=DIR

is the command, only that its source is one of parts.NAMED.
"""

import hashlib
from pathlib import Path

from m3i_jax import command
from m3i_jax.prepare import cli, crew, writer
from m3i_jax.prepare.items import Layout, Options
from tests.prepare import parts

GENEROUS = Options(max_bad=0.5)  # of parts.Drawn, a fifth is bad


def in_process(job, tasks):
  """Without other processes, in the order of the tasks."""
  for task in tasks:
    writer.write_part(job, task)


def in_crew(workers: int):
  told = lambda *_: None
  return lambda job, tasks: crew.write_all(job, tasks, workers, told)


def write(layout: Layout, out: Path, options: Options = GENEROUS,
          write=in_process, overwrite: bool = False,
          source: str = 'drawn') -> dict:  # fmt: skip
  return cli.prepare(source, layout, str(out), options, write, overwrite)


def content(out: Path) -> dict[str, str]:
  """The SHA-256 of every file below a directory, by name."""
  return {
    str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(out.rglob('*'))
    if path.is_file()
  }


if __name__ == '__main__':
  cli.real = lambda source: source
  cli.recognise = lambda source, given: parts.NAMED[source]()
  command.run(cli.define, cli.work, ('out',))
