"""From a part to a shard: one ArrayRecord file, its hashes, its side file.

A shard is written under its last name, and its side file after it, each when
its bytes are on the disk, so that a part whose side file is there is done,
however the writing ended, by a lost machine too. What makes a directory a data
set, `dataset_info.json`, comes last (finish.py).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from m3i_jax.data.places import UNFINISHED
from m3i_jax.prepare.counts import Counts
from m3i_jax.prepare.examine import HASHES, Examined, examine
from m3i_jax.prepare.items import Bad, Item, Layout, Options, Part

FORMAT = 1  # grows when the same source would give other bytes
NAME = 'pictures'  # of every data set that is written here
TELL = 16  # records between two words on how far it is

# One record a chunk, for random access; pictures are compressed already.
_ARRAY_RECORD = 'group_size:1,uncompressed'
# They change what is found or refused, and no byte of a shard.
_NOT_WRITTEN = ('classes', 'absolute', 'manual_dir', 'max_bad')

Told = Callable[[int, Sequence[Sequence[str]]], None]


@dataclasses.dataclass(frozen=True)
class Task:
  """A part, and the shard that it becomes."""

  split: str
  number: int
  of: int
  part: Part

  @property
  def shard(self) -> str:
    suffix = f'{self.number:05d}-of-{self.of:05d}'
    return f'{NAME}-{self.split}.array_record-{suffix}'

  @property
  def hashes(self) -> str:
    return f'hashes/{self.split}-{self.number:05d}-of-{self.of:05d}.npy'

  @property
  def side(self) -> str:
    return f'{UNFINISHED}/{self.split}-{self.number:05d}-of-{self.of:05d}.json'


@dataclasses.dataclass(frozen=True)
class Job:
  """What is the same for all parts.

  Attributes:
    out: the directory; also gs://, where files are copied to when complete.
    options: of the command.
    labels, captions: whether records have these fields.
    plan: digest of all of that which changes what is written.
  """

  out: str
  options: Options
  labels: bool
  captions: bool
  plan: str

  @classmethod
  def of(cls, layout: Layout, out: str, options: Options) -> 'Job':
    kept = dataclasses.asdict(options)
    for name in _NOT_WRITTEN:
      del kept[name]
    plan = [FORMAT, layout.kind, layout.classes, layout.captions, kept]
    digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    labels = bool(layout.classes)
    return cls(str(out), options, labels, layout.captions, digest)


@dataclasses.dataclass(frozen=True)
class Shard:
  """What is known of a written shard; its side file is this as JSON.

  Attributes:
    plan, key, fingerprint: what it was made from.
    records: how many.
    size: bytes of the records.
    file_size, sha256: bytes of the file, and their digest.
    bad: (id, reason) of each record that was left out.
    counts: `Counts.stored()`.
  """

  plan: str
  key: str
  fingerprint: str
  records: int
  size: int
  file_size: int
  sha256: str
  bad: list[list[str]]
  counts: dict[str, dict[str, int]]


def begin(out: epath.Path) -> epath.Path:
  """Says in `out` that it is unfinished; a bucket keeps no empty folders.

  Returns:
    the file that says so.
  """
  (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
  lock = out / UNFINISHED / 'lock'
  lock.write_text('')
  return lock


def tasks(layout: Layout) -> list[Task]:
  """All parts, in the order of the data set."""
  return [
    Task(split, number, len(parts), part)
    for split, parts in layout.splits.items()
    for number, part in enumerate(parts)
  ]


def written(job: Job, task: Task) -> Shard | None:
  """The shard of a part, if it was written before, from the same part."""
  out = epath.Path(job.out)
  try:
    shard = Shard(**json.loads((out / task.side).read_text()))
    size = (out / task.shard).stat().length
    (out / task.hashes).stat()
  except (OSError, TypeError, ValueError):  # missing, cut short, of old times
    return None
  made_from = (shard.plan, shard.key, shard.fingerprint)
  wanted = (job.plan, task.part.key, task.part.fingerprint)
  return shard if made_from == wanted and size == shard.file_size else None


def write_part(
  job: Job, task: Task, told: Told = lambda *_: None
) -> Shard:
  """Writes a part's shard, hashes and side file, unless they are there.

  Args:
    told: is told now and then how many records were read, and the bad ones.
  Raises:
    whatever reading the part raises.
  """
  if shard := written(job, task):
    return shard
  with _scratch(job.out) as (scratch, deliver):
    shard = _write(job, task, scratch, told)
    deliver(scratch / 'shard', task.shard)
    deliver(scratch / 'hashes', task.hashes)
    (scratch / 'side').write_text(json.dumps(dataclasses.asdict(shard)))
    deliver(scratch / 'side', task.side)
  return shard


def _write(
  job: Job, task: Task, scratch: Path, told: Told
) -> Shard:
  """Writes `scratch`/shard and `scratch`/hashes."""
  from array_record.python import array_record_module

  counts, bad, hashes, size, seen = Counts(), [], bytearray(), 0, 0
  path = scratch / 'shard'
  file = array_record_module.ArrayRecordWriter(str(path), _ARRAY_RECORD)
  try:
    for seen, record in enumerate(_examined(job, task.part), 1):
      counts.add(record)
      if isinstance(record, Bad):
        bad.append([record.id, record.reason])
      else:
        example = serialised(record.item, job.labels, job.captions)
        file.write(example)
        size += len(example)
        hashes += record.sha256 + record.dhash.to_bytes(8, 'little')
      if seen % TELL == 0:
        told(seen, bad)
  finally:
    file.close()
  told(seen, bad)
  rows = np.frombuffer(hashes, HASHES)
  with open(scratch / 'hashes', 'wb') as hashes_file:
    np.save(hashes_file, rows, allow_pickle=False)
  with open(path, 'rb') as stored:
    digest = hashlib.file_digest(stored, 'sha256').hexdigest()
  return Shard(
    job.plan,
    task.part.key,
    task.part.fingerprint,
    len(rows),
    size,
    path.stat().st_size,
    digest,
    bad,
    counts.stored(),
  )


def _examined(job: Job, part: Part) -> Iterator[Examined | Bad]:
  for record in part:
    # A path may have bytes that are no text.
    name = record.id.encode('utf-8', 'backslashreplace').decode()
    record = dataclasses.replace(record, id=name)
    yield record if isinstance(record, Bad) else _look(record, job.options)


def _look(item: Item, options: Options) -> Examined | Bad:
  """What no test has foreseen of one picture does not end the others."""
  try:
    return examine(item, options)
  except Exception as error:
    told = ' '.join(f'{type(error).__name__}: {error}'.split())
    return Bad(item.id, f'cannot be stored: {told}')


def serialised(item: Item, labels: bool, captions: bool) -> bytes:
  """A record as TFDS stores it: a tf.train.Example, its fields sorted."""
  example = _example_type()()
  fields = example.features.feature
  fields['id'].bytes_list.value.append(item.id.encode())
  fields['image'].bytes_list.value.append(item.image)
  if labels:
    fields['label'].int64_list.value.append(item.label)
  if captions:
    texts = [caption.encode() for caption in item.captions]
    fields['text'].bytes_list.value.extend(texts)
  return example.SerializeToString(deterministic=True)


@functools.cache
def _example_type() -> type:
  from tensorflow_datasets.proto import tf_example_pb2  # a second to import

  return tf_example_pb2.Example


def sync(path: str | os.PathLike) -> None:
  """Returns when a file's bytes, or a folder's names, are on the disk."""
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  except OSError:
    if not os.path.isdir(path):  # some file systems cannot do that
      raise
  finally:
    os.close(file)


@contextlib.contextmanager
def _scratch(out: str) -> Iterator[tuple[Path, Callable[[Path, str], None]]]:
  """A local directory, and what brings a whole file of it to its place."""
  target = epath.Path(out)
  for folder in (UNFINISHED, 'hashes'):
    (target / folder).mkdir(parents=True, exist_ok=True)
  local = '://' not in out
  place = target / UNFINISHED if local else None

  def deliver(path: Path, name: str) -> None:
    if local:
      sync(path)
      os.replace(path, target / name)
    else:
      epath.Path(path).copy(target / name, overwrite=True)

  scratch = tempfile.mkdtemp(prefix='scratch-', dir=place)
  try:
    yield Path(scratch), deliver
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
