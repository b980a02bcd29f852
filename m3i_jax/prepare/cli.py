"""The flags of `python -m m3i_jax.prepare`, and what it does with them."""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags
from etils import epath

from m3i_jax.data import pictures
from m3i_jax.data.places import UNFINISHED
from m3i_jax.errors import STOPPED, UserError
from m3i_jax.prepare import conventions, crew, finish, holdout, manifest, writer
from m3i_jax.prepare.items import Layout, Options
from m3i_jax.prepare.progress import Progress, TooManyBad
from m3i_jax.prepare.writer import Job, Task

_HELP = {
  'image': 'column or key of the picture; default: the usual names',
  'label': 'column or key of the label',
  'text': 'column or key of the caption; several with commas between',
  'id': 'column or key of the name of a record',
  'split': 'name of the split, where the source has only one',
  'classes': 'file with the class names, one a line',
  'absolute': 'let paths in a table, and links in a folder, lead out of it',
  'manual_dir': 'where TFDS finds what it cannot download',
  'records': 'pictures in a shard, where the source does not say',
  'short_side': 'pixels to which larger pictures are shrunk; 0: none is',
  'quality': 'of JPEG, where a picture is written anew',
  'holdout': "share that becomes the split 'test'",
  'max_pixels': 'a larger picture is bad',
  'max_bad': 'share of bad records in a split that is too much',
}

Write = Callable[[Job, Sequence[Task]], None]


def define() -> None:
  """Makes the flags; those of Options have their defaults there."""
  makers = {
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
  }
  for field in dataclasses.fields(Options):
    makers[field.type](field.name, field.default, _HELP[field.name])
    if '_' in field.name:
      flags.DEFINE_alias(field.name.replace('_', '-'), field.name)
  flags.DEFINE_string('out', None, 'the directory to make')
  flags.DEFINE_integer(
    'workers', os.cpu_count() or 1, 'processes that write', lower_bound=1
  )
  flags.DEFINE_bool('overwrite', False, 'begin anew, whatever was prepared')
  flags.DEFINE_bool('duplicates', False, 'then look for pictures seen twice')


def options(values: Any) -> Options:
  """The options that the flags say; UserError where they make no sense."""
  given = Options(
    **{field.name: values[field.name].value
       for field in dataclasses.fields(Options)}
  )
  if given.records < 1:
    raise UserError('--records must be at least 1')
  if not 1 <= given.max_pixels <= pictures.MAX_PIXELS:
    raise UserError(f'--max_pixels must be 1 to {pictures.MAX_PIXELS}')
  if given.short_side < 0 or not 1 <= given.quality <= 100:
    raise UserError('--short_side is at least 0, --quality is 1 to 100')
  if not 0 <= given.max_bad <= 1:
    raise UserError('--max_bad is a share, 0 to 1')
  return given


def recognise(source: str, given: Options) -> Layout:
  """What the source is, with --holdout applied."""
  from m3i_jax.prepare import readers

  layout = readers.recognise(source, given)
  for split, inside in layout.splits.items():
    if not re.fullmatch(r'\w+', split, re.ASCII):
      at = '' if split == given.split else f', as at {inside[0].key}'
      raise UserError(
        f'a split cannot be named {split!r}{at}: use letters, digits'
      )
  if given.holdout:
    layout = holdout.hold_out(layout, given.holdout)
  return layout


def real(source: str) -> str:
  """One name of a source, however its path was typed.

  Links in the path are resolved; not that of a file, whose name tells its kind.
  """
  if source.startswith('tfds:') or conventions.is_address(source):
    return source
  path = os.path.expanduser(source)
  if os.path.isdir(path):
    return os.path.realpath(path)
  folder, name = os.path.split(path)  # also of x-{000..042}.tar
  return os.path.join(os.path.realpath(folder), name)


def place(source: str, out: str) -> str:
  """The path of --out; UserError if it lies in the source or cannot be made."""
  if '://' in out:
    return out.rstrip('/')
  target = os.path.realpath(os.path.expanduser(out))
  inside = os.path.realpath(os.path.expanduser(source))
  if os.path.commonpath([target, inside]) == inside:
    raise UserError(f'--out={out} lies in {source}: name another directory')
  above = target
  while not os.path.exists(above):
    above = os.path.dirname(above)
  if not os.path.isdir(above):
    raise UserError(f'--out={out}: {above} is no directory: name another one')
  if above != target and not os.access(above, os.W_OK | os.X_OK):
    raise UserError(f'--out={out}: {above} cannot be written: name another one')
  return target


def work(source: str, values: Any) -> int:
  """The command; returns its exit code."""

  def write(job: Job, tasks: Sequence[Task]) -> None:
    with Progress(tasks, job.options.max_bad) as progress:
      crew.write_all(job, tasks, values.workers, progress.told)

  return run(source, values, write)


def run(source: str, values: Any, write: Write) -> int:
  """The command, or its Beam pipeline: they differ in `write`."""
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
  given = options(values)
  source = real(source)
  out = place(source, values.out)
  if values.duplicates and '://' in out:
    raise UserError('--duplicates reads records, from a local --out only')
  try:
    layout = recognise(source, given)
    print(f'prepare: {layout.told}', flush=True)
    prepare(source, layout, out, given, write, values.overwrite)
    if values.duplicates:
      from m3i_jax.prepare import duplicates

      print('\n'.join(duplicates.report([out], f'{out}/{duplicates.FILE}')))
  except (TooManyBad, crew.Lost, finish.Changed) as error:
    print(f'prepare: {error}', file=sys.stderr)
    return 1
  except (KeyboardInterrupt, SystemExit):
    print('prepare: stopped; the same command goes on', file=sys.stderr)
    return STOPPED
  return 0


def prepare(
  source: str,
  layout: Layout,
  out: str,
  given: Options,
  write: Write,
  overwrite: bool,
) -> dict[str, Any]:
  """Writes `out` from the layout, or finds that this was done.

  Args:
    source: as `real` gives it: another one does not go on from what is there.
    write: writes the shards of tasks, in whatever order.
  Returns:
    the manifest.
  Raises:
    UserError: `out` holds something else.
    TooManyBad, Lost, Changed: see there.
  """
  job = Job.of(layout, out, given)
  tasks = writer.tasks(layout)
  target = epath.Path(out)
  if overwrite:
    finish.forget(target)
  if found := _finished(target, job, tasks):
    print(f'prepare: {out} is there already: nothing to do')
    return found
  with _lock(target):
    _claim(target, {'source': source, 'plan': job.plan}, overwrite)
    left = [task for task in tasks if not writer.written(job, task)]
    if kept := len(tasks) - len(left):
      print(f'prepare: {kept} of {len(tasks)} parts are there already')
    write(job, left)
    told = finish.finish(job, layout, tasks)
  print('\n'.join(summary(told, out)))
  return told


def summary(told: dict[str, Any], out: str) -> Iterator[str]:
  """What was written, a line for each split."""
  for split, of in told['splits'].items():
    bad = ', '.join(f'{n} x {reason}' for reason, n in of['bad'].items())
    captions = of.get('captions')
    yield (
      f'prepare: {split}: {of["records"]} records, {of["bytes"] / 1e6:.1f} MB, '
      f'{len(of["shards"])} shards'
      + (f', {captions["captions"]} captions' if captions else '')
      + (f'; left out: {bad} (quarantine.jsonl)' if bad else '')
    )
  yield f'prepare: use it with --config.data={out}'


def _finished(
  target: epath.Path, job: Job, tasks: list[Task]
) -> dict[str, Any] | None:
  """The manifest, if all was done before; UserError if something else was."""
  if (target / UNFINISHED).exists() or not target.exists():
    return None
  found = manifest.read(target)
  if found is None:
    if any(target.iterdir()):
      raise UserError(f'{target} is not empty: name a directory that is')
    return None
  if found.get('source') != manifest.source_digest(job, tasks):
    raise UserError(
      f'{target} was prepared from another source, or with other options, or '
      'the source has changed: name another --out, or begin anew by --overwrite'
    )
  if wrong := manifest.verify(target):
    raise UserError(f'{wrong[0]}: begin anew by --overwrite')
  return found


def _claim(target: epath.Path, ours: dict[str, str], overwrite: bool) -> None:
  """UserError if another command was stopped here; then says which this is.

  Files of the source that have changed are no matter: their parts tell.
  """
  mark = target / UNFINISHED / 'source'
  try:
    left = json.loads(mark.read_text())
  except FileNotFoundError:
    left = ours
  except ValueError:  # nobody's
    left = {}
  if left != ours and not overwrite:
    told = f'of {left.get("source", "something")}'
    if left.get('source') == ours['source']:
      told += ' with other options or labels'
    raise UserError(
      f'{target} has what a prepare {told} has left when it was stopped: run '
      'that again, name another --out, or begin anew by --overwrite'
    )
  finish.write(mark, json.dumps(ours))


@contextlib.contextmanager
def _lock(target: epath.Path) -> Iterator[None]:
  """One command at a time writes a directory; what a killed one left goes."""
  try:
    lock = writer.begin(target)
  except OSError as error:
    told = error.strerror or error
    raise UserError(
      f'--out={target} cannot be written ({told}): name another directory'
    ) from error
  if '://' in str(target):
    yield
    return
  with open(lock, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(f'another prepare is writing {target}') from error
    for scratch in lock.parent.glob('scratch-*'):
      shutil.rmtree(scratch, ignore_errors=True)
    yield
