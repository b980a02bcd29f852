"""What the small commands share: flags, and mistakes told in one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging

from m3i_jax.errors import UserError


def run(
  define: Callable[[], None],
  work: Callable[..., int],
  required: tuple[str, ...],
  words: range = range(1, 2),
  what: str = 'a path',
) -> None:
  """Runs work(PATH, flags) as a command whose one argument is a path.

  `define` makes the flags, `required` are those that must be given. Flags are
  of the process, so that they are made here and not by an import. A command
  may take another number of arguments than one, `words`, and call it `what`.

  Exit codes: what `work` returns, 2 for a mistake, which is told in one line.
  """

  def parse(argv: list[str]) -> list[str]:
    with told():
      try:
        rest = flags.FLAGS(argv)
      except flags.Error as error:
        raise UserError(f'{error}; see --help') from error
      if any(flag.startswith('--help') for flag in argv):
        return rest
      missing = [
        f'--{x} is missing' for x in required if not flags.FLAGS[x].value
      ]
      if words == range(1, 2) and len(rest) == 1:
        missing.insert(0, f'{what} is missing')
      if missing:
        raise UserError(f'{" and ".join(missing)}; see --help')
      if len(rest) - 1 not in words:
        wanted = 'one is' if words == range(1, 2) else (
          f'{words.start} to {words.stop - 1} are'
        )
        raise UserError(
          f'{len(rest) - 1} paths are given, and {wanted} wanted; see --help'
        )
      return rest

  def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    # So that what is half-written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with told():
      code = work(*argv[1:], flags.FLAGS)
    sys.exit(code)

  define()
  _list_in_help(define.__module__)
  app.run(main, flags_parser=parse)


def _list_in_help(module: str) -> None:
  """Lets --help list a module's flags, as it lists those of the main one."""
  for flag in flags.FLAGS.get_flags_for_module(module):
    if '-' not in flag.name:  # the same flag, written otherwise
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def make_room(flag: str, file: str) -> None:
  """Makes the folder of a file, so that no work is done for nothing.

  Raises:
    UserError: it cannot be written there.
  """
  folder = Path(file).parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'--{flag}={file}: cannot make {folder} ({error.strerror}): name a file '
      'elsewhere'
    ) from error
  if Path(file).is_dir() or not os.access(folder, os.W_OK):
    raise UserError(f'--{flag}={file} cannot be written: name another file')


@contextlib.contextmanager
def told() -> Iterator[None]:
  """A mistake of the user is one line and exit code 2."""
  try:
    yield
  except UserError as error:
    print(f'm3i_jax: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)
