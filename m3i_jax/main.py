"""Pre-train a vision backbone with every kind of supervision at once.

  python -m m3i_jax.main --config=configs/emoji.py --workdir=runs/emoji

FILE:ARG picks a variant of a config; every config has `debug`: drawn shapes, a
tiny model, five steps. Any value can be given on the command line:

  --config=configs/vitb.py:debug --config.batch_size=64 --config.seed=1
  --config.total_steps=1000 --config.optimizer.learning_rate=3e-4

--config.data=DIR runs any config on a directory that m3i_jax.prepare has made
of your pictures, or on emoji, synthetic, tfds:NAME, or a mixture A*3,B*1.

m3i_jax/config.py lists the keys. The same line again goes on from the newest
checkpoint in the workdir, also on other devices. Exit codes: 0 the run is
complete; 2 a mistake that the printed line explains; 70 it diverged; to be run
again as it is: 75 stopped by SIGTERM or Ctrl-C and saved, 74 stuck or a process
lost.

One of several processes, where JAX does not find them by itself: the variables
M3I_COORDINATOR=HOST:PORT, M3I_PROCESSES and M3I_PROCESS_ID. What a run will
need: python -m m3i_jax.plan; what is wrong: python -m m3i_jax.doctor.
"""

import os
import re
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from m3i_jax.errors import STOPPED, Diverged, Stuck, UserError

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:ARG] of the run, such as configs/emoji.py:debug'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'directory of the run: checkpoints, metrics, report'
)


_PROFILE = flags.DEFINE_string(
  'profile', '', 'START:STOP, steps that WORKDIR/profile gets a trace of'
)
_ACCEPT = flags.DEFINE_boolean(
  'accept_changes', False, 'go on with another config than the run began with'
)
_PLATFORM = flags.DEFINE_string(
  'platform', '', 'cpu, gpu or tpu: refuse to run on another; empty: any'
)


def parse(argv: list[str]) -> list[str]:
  """Reads the flags; a mistake is one line and exit code 2."""
  # The last --config counts: launch/local.sh gives one that a user replaces.
  *earlier, _ = [a for a in argv if a.startswith('--config=')] or [None]
  for flag in earlier:
    argv.remove(flag)
  # config.data is a part of the config: a name for it stands for all of it.
  named = [a for a in argv if a.startswith('--config.data=')]
  argv[:] = [a for a in argv if a not in named]
  try:
    rest = flags.FLAGS(argv)
    if not any(flag.startswith('--help') for flag in argv):
      for flag in ('config', 'workdir'):
        if flags.FLAGS[flag].value is None:
          raise UserError(f'--{flag} is missing; see --help')
      _ = _CONFIG.value.seed  # a file that cannot be loaded says so here
    if rest[1:]:
      raise UserError(f'unknown argument {rest[1]!r}; see --help')
    if named and _CONFIG.value is not None:
      _adopt(named[-1].partition('=')[2], argv)
    return rest
  except Exception as error:  # config files may raise anything
    fail(explain(error, argv))


def _adopt(data: str, argv: list[str]) -> None:
  """Fits the config to the data that --config.data names."""
  from m3i_jax import adopt

  keys = (re.match(r'--config\.([\w.]+)', flag) for flag in argv)
  given = {key[1] for key in keys if key}
  for line in adopt.adopt(_CONFIG.value, data, given):
    print(line, file=sys.stderr)


def explain(error: Exception, argv: list[str]) -> str:
  """What went wrong in the flags, as one line."""
  key = re.match(r'[\'"\\]*(?:Key ")?(\w+)[\'"\\]', str(error))
  if isinstance(error, KeyError | AttributeError) and key and (
    'has no attribute' not in str(error)
  ):
    # ml_collections: the key in quotes, perhaps 'Did you mean "key" ...'.
    key = key[1]
    near = re.search(r'Did you mean "(\w+)"', str(error))
    flag = next((f.partition('=')[0] for f in argv if key in f), key)
    return f'{flag}: no such key in the config' + (
      f', did you mean {near[1]!r}?' if near else ' file; add it there'
    )
  if isinstance(error, OSError) and 'Failed loading config' in str(error):
    path = [f for f in argv if f.startswith('--config=')][-1]
    return f'{path}: ' + str(error).splitlines()[-1].strip()
  # Of a config file's own error, the last line of its traceback.
  line = (str(error).strip() or repr(error)).splitlines()[-1]
  return line.rpartition('UserError: ')[2]


def fail(error: object) -> None:
  """Prints an error as one line and leaves with its code, or 2."""
  line = ' '.join(str(error).split()) or type(error).__name__
  print(f'm3i_jax: {line}', file=sys.stderr)
  sys.exit(getattr(error, 'code', 2))


def steps(text: str) -> tuple[int, int] | None:
  """(start, stop) of --profile."""
  if not text:
    return None
  found = re.fullmatch(r'(\d+):(\d+)', text)
  if not found or int(found[1]) >= int(found[2]):
    raise UserError(f'--profile={text}: say START:STOP, such as 100:105')
  return int(found[1]), int(found[2])


def _interrupted(*_) -> None:
  """Ctrl-C is a SIGTERM, which saves; the second time it ends at once."""
  signal.signal(signal.SIGINT, signal.default_int_handler)
  print('stopping after this step; Ctrl-C again ends at once', file=sys.stderr)
  os.kill(os.getpid(), signal.SIGTERM)


def main(_) -> None:
  # Imports and devices only now: a mistyped flag is answered at once.
  import jax

  from m3i_jax import devices, processes, train

  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  cache = cache or os.path.expanduser('~/.cache/m3i_jax')
  jax.config.update('jax_compilation_cache_dir', cache)
  logging.set_verbosity(logging.WARNING)
  try:
    profile = steps(_PROFILE.value)
    processes.initialize()
    signal.signal(signal.SIGINT, _interrupted)
    devices.check(_PLATFORM.value)
    if told := devices.fallback():
      print(f'warning: {told}', file=sys.stderr)
    complete = processes.guarded(
      lambda: train.train(
        _CONFIG.value, _WORKDIR.value, profile, _ACCEPT.value
      )
    )
  except (UserError, Diverged, Stuck) as error:
    fail(error)
  sys.exit(0 if complete else STOPPED)


if __name__ == '__main__':
  app.run(main, flags_parser=parse)
