"""From finished shards to a data set: the files that speak of all of them."""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from etils import epath

from m3i_jax.data.places import UNFINISHED
from m3i_jax.errors import UserError
from m3i_jax.prepare import duplicates, manifest, writer
from m3i_jax.prepare.columns import OUTSIDE
from m3i_jax.prepare.counts import Counts
from m3i_jax.prepare.items import Layout
from m3i_jax.prepare.progress import TooManyBad
from m3i_jax.prepare.writer import NAME, Job, Shard, Task

INFO = 'dataset_info.json'
QUARANTINE = 'quarantine.jsonl'
_OURS = re.compile(
  rf'{NAME}-\w+\.array_record-\d+-of-\d+|(hashes/)?\w+-\d+-of-\d+\.npy'
)
# Written by TFDS.
_FEATURES = ('features.json', 'label.labels.txt')

Done = dict[str, list[tuple[Task, Shard]]]


class Changed(RuntimeError):
  """A part is no longer what was written of it; one line says which."""


def finish(job: Job, layout: Layout, tasks: list[Task]) -> dict[str, Any]:
  """Writes all that is no shard, `dataset_info.json` last.

  Returns:
    the manifest.
  Raises:
    Changed: see there.
    TooManyBad: see there; QUARANTINE is written, and a new start with a larger
      share goes on from here.
  """
  done = {split: [] for split in layout.splits}
  for task in tasks:
    shard = writer.written(job, task)
    if shard is None:
      raise Changed(
        f'part {task.part.key!r} of split {task.split!r} is not what was read: '
        'the source has changed: run the same command again'
      )
    done[task.split].append((task, shard))
  out = epath.Path(job.out)
  write(out / QUARANTINE, ''.join(_quarantine(done)))
  for split, shards in done.items():
    _refuse_bad(split, [shard for _, shard in shards], job)
  _sweep(out, tasks)
  features(layout).save_config(out)
  told = manifest.build(job, layout, done)
  write(out / manifest.FILE, json.dumps(told, indent=1) + '\n')
  _settle(out)
  write(out / INFO, json.dumps(_info(layout, done), indent=1) + '\n')
  _settle(out)
  (out / UNFINISHED).rmtree()
  return told


def forget(out: epath.Path) -> None:
  """Removes a data set that `prepare` made; one that was stopped may go on."""
  unfinished = (out / UNFINISHED).exists()
  if unfinished or not out.exists() or not any(out.iterdir()):
    return
  if manifest.read(out) is None:
    raise UserError(f'{out} was not made by prepare: nothing is removed there')
  writer.begin(out)  # first: from here on it is none
  for name in (INFO, manifest.FILE, QUARANTINE, duplicates.FILE, *_FEATURES):
    (out / name).unlink(missing_ok=True)
  _sweep(out, [])


def _refuse_bad(split: str, shards: list[Shard], job: Job) -> None:
  records = sum(shard.records for shard in shards)
  bad = sum(len(shard.bad) for shard in shards)
  if bad <= job.options.max_bad * (records + bad) and records:
    return
  counts = Counts()
  for shard in shards:
    counts += Counts(shard.counts)
  reasons = sorted(counts['reasons'].items(), key=lambda reason: -reason[1])
  told = ', '.join(f'{n} x {reason}' for reason, n in reasons[:5])
  if not bad:
    raise TooManyBad(f'split {split!r} has no record')
  outside = OUTSIDE in counts['reasons']
  lets = '; --absolute lets paths lead out' if outside else ''
  raise TooManyBad(
    f'{bad} of the {records + bad} records of split {split!r} are bad '
    f'({told}): see {epath.Path(job.out) / QUARANTINE}; --max_bad='
    f'{job.options.max_bad:g} is the share that is let pass{lets}'
  )


def _quarantine(done: Done) -> Iterable[str]:
  for split, shards in done.items():
    for _, shard in shards:
      for id, reason in shard.bad:
        line = {'split': split, 'id': id, 'reason': reason}
        yield json.dumps(line) + '\n'


def _sweep(out: epath.Path, tasks: list[Task]) -> None:
  """Removes shards and hashes that the tasks do not write."""
  wanted = {name for task in tasks for name in (task.shard, task.hashes)}
  folders = [folder for folder in (out, out / 'hashes') if folder.exists()]
  for path in (path for folder in folders for path in folder.iterdir()):
    name = path.name if path.parent == out else f'hashes/{path.name}'
    if _OURS.fullmatch(name) and name not in wanted:
      path.unlink()


def features(layout: Layout) -> Any:
  """The features that TFDS reads a record with."""
  import tensorflow_datasets as tfds  # seconds to import

  features = {
    'id': tfds.features.Text(),
    'image': tfds.features.Image(shape=(None, None, 3)),
  }
  if layout.classes:
    features['label'] = tfds.features.ClassLabel(names=list(layout.classes))
  if layout.captions:
    features['text'] = tfds.features.Sequence(tfds.features.Text())
  return tfds.features.FeaturesDict(features)


def _info(layout: Layout, done: Done) -> dict[str, Any]:
  """dataset_info.json: TFDS's DatasetInfo as JSON, without its empty fields."""
  return {
    'description': f'Prepared by m3i_jax from: {layout.kind}.',
    'fileFormat': 'array_record',
    'moduleName': 'm3i_jax.prepare',
    'name': NAME,
    'splits': [
      {
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'name': split,
        'numBytes': str(sum(shard.size for _, shard in shards)),
        'shardLengths': [str(shard.records) for _, shard in shards],
      }
      for split, shards in done.items()
    ],
    'version': '1.0.0',
  }


def write(path: epath.Path, text: str) -> None:
  """Atomic on a local disk; a bucket's objects are whole or not there."""
  if '://' in str(path):
    path.write_text(text)
    return
  unfinished = path.with_name(f'{path.name}.tmp')
  unfinished.write_text(text)
  writer.sync(unfinished)
  os.replace(unfinished, path)


def _settle(out: epath.Path) -> None:
  """Waits for what is there to be on a local disk, under its name."""
  if '://' in str(out):
    return
  written = [out / name for name in _FEATURES if (out / name).exists()]
  for path in (*written, out / 'hashes', out):
    writer.sync(path)
