"""Does a config fit on some accelerators, and what will a run of it cost?

  python -m m3i_jax.plan --config=configs/vitb.py --topology=v5e:8x8
  python -m m3i_jax.plan --config=configs/emoji.py --topology=h100:8 --json

Compiles the train step ahead of time, for devices that need not be there, and
takes a minute or several. The topology is a TPU slice (v5p:4x4x4, or several:
2xv5e:16x16), GPUs (h100:8, or hosts: h100:4x8), cpu:8, or here. Values of the
config can be given as in m3i_jax.main. docs/plans.md explains the numbers.

Exit codes: 0 it fits, 3 it does not, 2 a mistake that the printed line tells.
"""

import json
import re
import sys

from absl import flags, logging

from m3i_jax import main
from m3i_jax.errors import UserError

TOO_LARGE = 3
TRIES = 6  # compilations of a search

_TOPOLOGY = flags.DEFINE_string('topology', None, 'such as v5p:4x4x4, h100:8')
_JSON = flags.DEFINE_bool('json', False, 'print one JSON object, no table')
_SEARCH = flags.DEFINE_bool(
  'search', False, 'if it does not fit, compile what may, until one does'
)
_MFU = flags.DEFINE_float(
  'mfu', 0.4, 'share of the bf16 peak that the schedule reckons with'
)
_CLASSES = flags.DEFINE_integer('classes', 1000, 'C, labels of the data')
_VOCABULARY = flags.DEFINE_integer(
  'vocabulary', 0, "V of the tokenizer; 0: the config's data.vocabulary"
)


def parse(argv: list[str]) -> list[str]:
  """Reads the flags; a mistake is one line and exit code 2."""
  try:
    # A config file imports JAX, which must find the devices asked for.
    prepare(argv)
  except UserError as error:
    main.fail(error)
  rest = main.parse([*argv, '--workdir='])
  if not 0 < _MFU.value <= 1:
    main.fail(f'--mfu={_MFU.value}: it must be above 0 and at most 1')
  return rest


def prepare(argv: list[str]) -> None:
  """Sets the environment for the topology on a command line."""
  from m3i_jax.plan import topology

  if any(flag.startswith('--help') for flag in argv):
    return
  joined = '\n'.join(argv)
  name = re.search(r'^--?topology[=\n](.*)$', joined, re.MULTILINE)
  if not name:
    raise UserError('--topology is missing, such as v5p:4x4x4; see --help')
  topology.prepare(name[1])


def plan(config, ask, search: bool, log) -> dict:
  """The plan of a config, or of the nearest change of it that fits.

  Args:
    ask: a `planning.Request`.
    search: compile remedies one after another, each with those before it.
    log: is told what is being done.
  Returns:
    What `planning.measure` returns, with 'changes', {key: value} of the
    config, and 'remedies', [{key: value}] that may make it fit.
  """
  from m3i_jax.plan import planning

  changes, tried = {}, set()
  for _ in range(TRIES if search else 1):
    changed = planning.changed(config, changes)
    log(f'compiling for {ask.topology.name}, with {changes or "no changes"}')
    result = planning.measure(changed, ask)
    result['changes'] = changes
    result['remedies'] = (
      [] if result['fits'] else planning.remedies(changed, ask)
    )
    todo = [r for r in result['remedies'] if str(r) not in tried]
    if not todo:
      break
    tried.add(str(todo[0]))
    changes = changes | todo[0]
  return result


def run(argv) -> None:
  del argv
  from m3i_jax.plan import planning, report, topology

  logging.set_verbosity(logging.ERROR)
  config = flags.FLAGS.config
  log = lambda line: print(f'plan: {line}', file=sys.stderr, flush=True)
  try:
    ask = planning.Request(
      topology.find(_TOPOLOGY.value),
      _MFU.value,
      _CLASSES.value,
      _VOCABULARY.value or config.data.vocabulary,
    )
    result = plan(config, ask, _SEARCH.value, log)
  except UserError as error:
    main.fail(error)
  print(json.dumps(result) if _JSON.value else report.table(result))
  sys.exit(0 if result['fits'] else TOO_LARGE)
