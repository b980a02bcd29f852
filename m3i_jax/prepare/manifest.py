"""manifest.json: what a prepared directory holds, and whether it still does."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from m3i_jax.data.places import UNFINISHED
from m3i_jax.prepare import writer
from m3i_jax.prepare.counts import Counts
from m3i_jax.prepare.items import Layout
from m3i_jax.prepare.writer import FORMAT, Job, Shard, Task

FILE = 'manifest.json'


def source_digest(job: Job, tasks: Sequence[Task]) -> str:
  """Equal when the same source would be prepared with the same options."""
  digest = hashlib.sha256(job.plan.encode())
  for task in tasks:
    part = (task.split, task.part.key, task.part.fingerprint)
    digest.update(json.dumps(part).encode())
  return digest.hexdigest()


def build(
  job: Job, layout: Layout, done: Mapping[str, list[tuple[Task, Shard]]]
) -> dict[str, Any]:
  """The manifest of the finished shards of each split."""
  tasks = [task for shards in done.values() for task, _ in shards]
  return {
    'format': FORMAT,
    'name': writer.NAME,
    'kind': layout.kind,
    'source': source_digest(job, tasks),
    'options': {
      'short_side': job.options.short_side,
      'quality': job.options.quality if job.options.short_side else None,
      'holdout': job.options.holdout,
      'max_pixels': job.options.max_pixels,
    },
    'classes': list(layout.classes),
    'splits': {
      split: _split(shards, layout) for split, shards in done.items()
    },
  }


def _split(
  shards: list[tuple[Task, Shard]], layout: Layout
) -> dict[str, Any]:
  counts = Counts()
  for _, shard in shards:
    counts += Counts(shard.counts)
  told = {
    'records': sum(shard.records for _, shard in shards),
    'bytes': sum(shard.size for _, shard in shards),
    'bad': counts['reasons'],
    'formats': counts['formats'],
    'short_side': counts.spread('short_sides'),
    'long_side': counts.spread('long_sides'),
  }
  if layout.classes:
    labels = counts['labels']
    told['labels'] = {
      name: labels.get(str(i), 0) for i, name in enumerate(layout.classes)
    }
    told['unlabelled'] = labels.get('-1', 0)
  if layout.captions:
    of_record = counts['captions']
    told['captions'] = {
      'records': sum(n for k, n in of_record.items() if k != '0'),
      'captions': sum(int(k) * n for k, n in of_record.items()),
      'characters': counts.spread('characters'),
      'words': counts.spread('words'),
    }
  return told | {
    'shards': [
      {
        'file': task.shard,
        'hashes': task.hashes,
        'records': shard.records,
        'bytes': shard.file_size,
        'sha256': shard.sha256,
      }
      for task, shard in shards
    ]
  }


def read(directory: str | os.PathLike) -> dict[str, Any] | None:
  """The manifest of a prepared directory; None where there is none."""
  path = epath.Path(directory) / FILE
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def verify(directory: str | os.PathLike, full: bool = False) -> list[str]:
  """What is wrong with a prepared directory, a line for each finding.

  Args:
    full: also read every shard and compare its checksum.
  Returns:
    []: nothing is, or the directory is none that `prepare` made.
  """
  place = epath.Path(directory)
  if (place / UNFINISHED).exists():
    return [f'{place}: prepare was stopped there: run the same command again']
  manifest = read(place)
  if manifest is None:
    return []
  if not manifest.get('splits'):
    return [f'{place / FILE} is damaged: prepare the source again']
  shards = [s for split in manifest['splits'].values() for s in split['shards']]
  findings = (_wrong(place, shard, full) for shard in shards)
  missing = [
    f'{place / name} is missing'
    for name in ('dataset_info.json', 'features.json')
    if not (place / name).exists()
  ]
  return missing + [finding for finding in findings if finding]


def _wrong(place: epath.Path, shard: Mapping[str, Any], full: bool) -> str:
  path = place / shard['file']
  if not path.exists():
    return f'{path} is missing ({shard["records"]} records)'
  size = path.stat().length
  if size != shard['bytes']:
    return f'{path} has {size} bytes instead of {shard["bytes"]}'
  if full:
    with path.open('rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if digest != shard['sha256']:
      return f'{path} is damaged: its SHA-256 is not that of the manifest'
  return ''
