"""Pre-train by each of many methods at one budget: a table and a plot.

  python -m m3i_jax.ablate --config=configs/ablation_emoji.py --workdir=W

Each row and seed of the config is an ordinary run in W/rows/NAME/seedN, with
its report.html and log.txt, and all are scored alike. After each of them
W/ablation.md, .csv and .png tell what has finished. The same line again goes on
where it stopped; what has finished is not run again. Any value of the config
can be given on the command line:

  --config=configs/ablation_emoji.py:full --config.seeds=5
  --config.steps=1000 --config.shrink.model.depth=6 --config.rows.m3i.steps=700

Equal images are not equal time: a second ablation with --config.like=W and
--config.seconds=60 gives each row the steps that took it so long in W. Two
flags choose among the rows:

  --rows=mim_pixel,clip   these alone; the table still shows all that finished
  --run=mim_pixel/0       one row and seed in this process, as a cluster's job

Exit codes: 0 complete, 2 a mistake that the printed line explains, or rows that
failed, 75 stopped by SIGTERM and saved (run it again).
"""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from m3i_jax import config as schema
from m3i_jax import main, metrics, processes, train
from m3i_jax.ablate import report, runs
from m3i_jax.errors import STOPPED, UserError
from m3i_jax.workdir import claim

_ROWS = flags.DEFINE_list('rows', [], 'names of rows; none: all of the config')
_RUN = flags.DEFINE_string('run', '', 'NAME/SEED: this one, in this process')
flags.adopt_module_key_flags(main)


def load(path: str) -> ConfigDict:
  """The config of FILE[:ARG], as --config would."""
  file, _, arg = path.partition(':')
  if not Path(file).is_file():
    raise UserError(f'{file}: no such config file in {os.getcwd()}')
  spec = importlib.util.spec_from_file_location('row', file)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return module.get_config(arg)
  except Exception as error:  # config files may raise anything
    raise UserError(f'{path}: {type(error).__name__}: {error}') from error


def find(ablation: ConfigDict, name: str) -> ConfigDict:
  """A row by name."""
  if name not in ablation.rows:
    raise UserError(
      f'no row {name!r} in this config: choose from {", ".join(ablation.rows)}'
    )
  return ablation.rows[name]


def resolve(ablation: ConfigDict, name: str, seed: int) -> ConfigDict:
  """The config of one run: the row's method in the frame of all rows.

  Raises:
    UserError: no such row or config file, or a frame that does not fit it.
  """
  row = find(ablation, name)
  try:
    c = load(row.config)
    schema.shrink(c, **ablation.shrink.to_dict())
    frame = ablation.frame.to_dict()
    c.evals = frame.pop('evals')
    c.update(frame)
  except (KeyError, AttributeError, TypeError) as error:
    raise UserError(f'rows.{name}: the frame does not fit: {error}') from error
  c.update(
    seed=seed,
    total_steps=row.steps or steps_of(ablation, name),
    batch_size=ablation.batch_size,
  )
  if all(target.of != 'text' for target in c.targets.values()):
    c.data.update(text='', tags='')  # no tokenizer for nothing
  if not c.model.class_token:
    for decoder in c.decoders.values():
      if isinstance(decoder, ConfigDict) and decoder.get('pool') == 'cls':
        decoder.pool = 'mean'
  return c


def steps_of(ablation: ConfigDict, name: str) -> int:
  """The steps of all rows, or those that take `seconds` at a known speed."""
  if not ablation.seconds:
    return ablation.steps
  try:
    with (Path(ablation.like) / 'ablation.csv').open() as file:
      lines = {line['row']: line for line in csv.DictReader(file)}
    images, seconds = lines[name]['images'], float(lines[name]['seconds'])
  except (OSError, KeyError) as error:
    raise UserError(
      f'config.seconds={ablation.seconds} needs the speed of row {name}: name '
      f'the workdir of an ablation that has it, not config.like='
      f'{ablation.like!r}'
    ) from error
  speed = int(images) / seconds
  return max(1, round(ablation.seconds * speed / ablation.batch_size))


def directory(workdir: Path, name: str, seed: int) -> Path:
  return workdir / 'rows' / name / f'seed{seed}'


def check(ablation: ConfigDict, workdir: Path, runs: Iterable) -> None:
  """Raises UserError for what would stop one of the runs, before the first.

  A run that is there already must be one of this ablation: a table never mixes
  budgets.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'cannot write to --workdir {workdir} ({error.strerror}): name a '
      'directory that can be written'
    ) from error
  if ablation.seeds < 1 or not ablation.rows:
    raise UserError('config.seeds and config.rows: give at least one of each')
  if not ablation.frame.get('evals'):
    raise UserError('config.frame.evals is empty: nothing would be compared')
  judge = ablation.best_by.rpartition('/')[0]
  if judge not in ablation.frame.evals:
    raise UserError(
      f'config.best_by={ablation.best_by!r} is no metric of '
      f'config.frame.evals: {", ".join(ablation.frame.evals)}'
    )
  for name, seed in runs:
    c = resolve(ablation, name, seed)
    try:
      train.parts(c, devices=1)
    except UserError as error:
      raise UserError(f'row {name}: {error}') from error
    if (directory(workdir, name, seed) / 'config.json').exists():
      claim(c, directory(workdir, name, seed))


def alone(ablation: ConfigDict, workdir: Path, which: str) -> bool:
  """Trains and scores one run in this process; False if a signal stopped it."""
  name, _, seed = which.partition('/')
  if not seed.isdigit():
    raise UserError(f'--run={which}: say NAME/SEED, such as mim_pixel/0')
  c = resolve(ablation, name, int(seed))
  # A row that goes on, and rows and seeds with parts alike, compile them once.
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = str(workdir.resolve() / 'compiled')
    jax.config.update('jax_compilation_cache_dir', cache)
  processes.initialize()
  return train.train(c, str(directory(workdir, name, int(seed))))


class Ablation:
  """All runs, one after the other, each in a process of its own.

  A process ends with its memory and its compiled steps; one that is killed or
  fails takes no other with it; and JAX, which hears SIGTERM once a process and
  tells it to the loop by the number of a step, starts anew with each loop.
  """

  def __init__(self, ablation: ConfigDict, workdir: Path, names: Sequence[str]):
    for name in names:
      find(ablation, name)
    self.ablation, self.workdir = ablation, workdir
    seeds = range(ablation.seed, ablation.seed + ablation.seeds)
    # Seeds outside: the first whole table is there early.
    self.all = [(name, seed) for seed in seeds for name in ablation.rows]
    self.todo = [run for run in self.all if run[0] in (names or ablation.rows)]
    self.runs: dict[tuple[str, int], runs.Run] = {}
    self.failed: list[str] = []
    self.child: subprocess.Popen | None = None
    self.stopped = False

  def go(self) -> bool:
    """Runs what is left; False if a signal stopped it."""
    check(self.ablation, self.workdir, self.all)
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self.stop)
    self.tell()
    left = [run for run in self.todo if run not in self.runs]
    done = len(self.todo) - len(left)
    bar = metrics.Progress(
      len(self.todo), done, 'ablation', lines=len(self.todo)
    )
    for name, seed in left:
      code = self.run(name, seed, bar, done)
      if code and self.stopped:
        break
      if code:
        self.failed.append(self.failure(name, seed, code))
        if code == 2 and not metrics.read(directory(self.workdir, name, seed)):
          break  # a mistake, told before the first step: others would, too
      self.tell()
      done += 1
      bar.update(done, self.note(name, seed))
      if self.stopped:
        break
    bar.close()
    if self.stopped and done < len(self.todo):
      return False
    if self.failed:
      raise UserError('; '.join(self.failed))
    print((self.workdir / 'ablation.md').read_text())
    return True

  def stop(self, *_) -> None:
    """On a signal: lets the run save its state."""
    self.stopped = True
    if self.child:
      self.child.terminate()

  def run(self, name: str, seed: int, bar, done: int) -> int:
    """The exit code of one run; what it prints goes to its log."""
    path = directory(self.workdir, name, seed)
    path.mkdir(parents=True, exist_ok=True)
    with (path / 'log.txt').open('a') as log:
      self.child = subprocess.Popen(
        self.command(name, seed), stdout=log, stderr=log
      )
    if self.stopped:  # before there was a child to tell
      self.child.terminate()
    while True:
      try:
        return self.child.wait(1)
      except subprocess.TimeoutExpired:
        if sys.stderr.isatty():
          bar.update(done, f'{name}/{seed} {last_line(path)[:60]}')

  def command(self, name: str, seed: int) -> list[str]:
    """The same line for one run: its flags change the config as ours do."""
    return [sys.executable, '-m', 'm3i_jax.ablate', *sys.argv[1:],
            f'--run={name}/{seed}']  # fmt: skip

  def tell(self) -> None:
    """Reads the runs that are new, and writes the table."""
    for run in self.all:
      path = directory(self.workdir, *run)
      if run not in self.runs and runs.finished(path):
        self.runs[run] = runs.read_run(path)
    if self.runs:
      report.write(self.ablation, self.workdir, self.runs, self.failed)

  def note(self, name: str, seed: int) -> str:
    """The run's score by the metric that judges."""
    if (name, seed) not in self.runs:
      return f'{name}/{seed} failed'
    run, key = self.runs[name, seed], self.ablation.best_by
    return (
      f'{name}/{seed}: {report.words(key)} {run.scores[key]:.1f}, '
      f'{run.seconds:.0f} s'
    )

  def failure(self, name: str, seed: int, code: int) -> str:
    path = directory(self.workdir, name, seed)
    line = last_line(path).removeprefix('m3i_jax: ')
    return f'{name}/{seed} failed ({code}): {line} (see {path}/log.txt)'


def last_line(path: Path) -> str:
  """The last line of a run's log that says something."""
  lines = (path / 'log.txt').read_text(errors='replace').splitlines()
  return next((x.strip() for x in reversed(lines) if x.strip()), 'no output')


def run(_) -> None:
  logging.set_verbosity(logging.WARNING)
  ablation, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
  try:
    if _RUN.value:
      complete = alone(ablation, workdir, _RUN.value)
    else:
      # This process computes nothing: the accelerators are the runs'.
      jax.config.update('jax_platforms', 'cpu')
      complete = Ablation(ablation, workdir, _ROWS.value).go()
  except UserError as error:
    main.fail(error)
  sys.exit(0 if complete else STOPPED)
