"""Whether this machine can train: devices, libraries, data, a run of 3 steps.

  python -m m3i_jax.doctor
  python -m m3i_jax.doctor --platform=gpu --config=configs/vitb.py \
    --workdir=runs/vitb

One line for each thing looked at, `ok`, `warn` or `fail`, and what to do. The
CPU where an accelerator was asked for, or seems to be here, is a failure. With
--config its data are read and its :debug variant takes the 3 steps; --workdir
names the disk. --nosmoke leaves the steps out. On a TPU slice of several hosts,
run it on all at once.

Of the data: missing and damaged files (--full reads all of every shard), some
pictures of every source and split, captions that are cut. --page=FILE.html has
pictures with labels and captions exactly as the model will see them.

Exit codes: 0 nothing failed, 1 something did, 2 a mistake in the flags.
"""

import pathlib
import sys
from collections.abc import Callable

from m3i_jax import checkup
from m3i_jax.checkup import Finding

CONFIG = 'configs/emoji.py'


def examine(config, file: str, workdir: pathlib.Path, platform: str,
            smoke: bool, page: str = '', full: bool = False
            ) -> bool:  # fmt: skip
  """Looks at everything, and prints it; whether nothing failed.

  config: the run's, `file` where it comes from, FILE[:ARG]. page, full: see
  `checkup_data.Checkup`.
  """
  import jax

  from m3i_jax.checkup_data import Checkup

  # The devices are left to the processes that this one starts.
  jax.config.update('jax_platforms', 'cpu')
  place = existing(workdir)
  devices = looked_at('devices', lambda: checkup.accelerators(platform))
  found = [
    devices,
    looked_at('cache', checkup.cache),
    looked_at('host', lambda: checkup.host(config.data.workers)),
  ]
  data = Checkup(config, workdir, full)
  found += [looked_at(name, look) for name, look in data.looks(page)]
  found.append(looked_at('disk', lambda: checkup.disk(config, place)))
  if smoke and devices.status == 'ok':
    found.append(looked_at(
      'smoke run', lambda: checkup.smoke(file, platform, devices.count, place)
    ))  # fmt: skip
  return all(finding.status != 'fail' for finding in found)


def looked_at(name: str, look: Callable[[], Finding]) -> Finding:
  """What `look` finds, printed; whatever it raises is a failure."""
  try:
    found = look()
  except Exception as error:  # a doctor tells what is wrong, not how it fell
    told = ' '.join(str(error).split()) or type(error).__name__
    found = Finding('fail', told)
  print(f'{found.status:4}  {name:9}  {found.told}', flush=True)
  if found.todo:
    print(f'{"":4}  {"":9}  -> {found.todo}', flush=True)
  return found


def existing(path: pathlib.Path) -> pathlib.Path:
  """The path, or of its parents the nearest that is there."""
  path = path.expanduser().resolve()
  return next(x for x in (path, *path.parents) if x.exists())


def command() -> None:
  """Reads the flags, as m3i_jax.main does, and examines."""
  from absl import app, flags, logging

  from m3i_jax import main
  from m3i_jax.command import make_room, told

  flags.DEFINE_boolean('smoke', True, 'take 3 steps of the :debug variant')
  flags.DEFINE_boolean('full', False, 'read all of every shard of the data')
  flags.DEFINE_string('page', '', 'FILE.html, pictures as the model has them')

  def parse(argv: list[str]) -> list[str]:
    if '--help' in argv:
      print(__doc__)
    # Of several --config or --workdir the last one counts.
    return main.parse(
      [argv[0], f'--config={CONFIG}', '--workdir=runs', *argv[1:]]
    )

  def run(_) -> None:
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    file = [x for x in sys.argv if x.startswith('--config=')]
    file = file[-1].partition('=')[2] if file else CONFIG
    if given.page:
      with told():
        make_room('page', given.page)
    sound = examine(
      given.config, file, pathlib.Path(given.workdir), given.platform,
      given.smoke, given.page, given.full,
    )  # fmt: skip
    sys.exit(0 if sound else 1)

  app.run(run, flags_parser=parse)


if __name__ == '__main__':
  if looked_at('libraries', checkup.libraries).status == 'fail':
    sys.exit(1)
  command()
