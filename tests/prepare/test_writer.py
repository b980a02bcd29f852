"""A part becomes a shard, exactly, once."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from m3i_jax.prepare import finish, writer
from m3i_jax.prepare.items import Bad, Item
from tests.prepare import parts, writing

RECORDS = (
  Item('a', parts.picture(0), 2, ('one', 'two')),
  Bad('b', 'no caption: x.txt'),
  Item('c', b'no picture'),
  Item('d\udcff', parts.picture(1)),  # as the path of a file may be
)


@pytest.fixture
def job(tmp_path):
  layout = parts.layout(train=[])
  return writer.Job.of(layout, tmp_path, writing.GENEROUS)


def task(part) -> writer.Task:
  return writer.Task('train', 1, 3, part)


def fields(data: bytes) -> dict[str, list]:
  features = tf_example_pb2.Example.FromString(data).features.feature
  return {
    name: list(value.int64_list.value or value.bytes_list.value)
    for name, value in features.items()
  }


def test_a_shard_has_the_good_records_in_order(job, tmp_path):
  shard = writer.write_part(job, task(parts.Fixed('p', RECORDS)))
  path = tmp_path / 'pictures-train.array_record-00001-of-00003'
  reader = array_record_module.ArrayRecordReader(str(path))
  first, last = (fields(reader.read([i])[0]) for i in range(2))
  assert reader.num_records() == 2
  assert first == {
    'id': [b'a'],
    'image': [parts.picture(0)],
    'label': [2],
    'text': [b'one', b'two'],
  }
  assert last['id'] == [rb'd\udcff']
  assert (last['label'], last['text']) == ([-1], [])
  assert shard.records == 2
  assert shard.bad[0] == ['b', 'no caption: x.txt']
  assert [id for id, _ in shard.bad] == ['b', 'c']
  assert shard.file_size == path.stat().st_size
  assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
  assert shard.counts['captions'] == {'0': 1, '2': 1}
  assert shard.counts['labels'] == {'-1': 1, '2': 1}


def test_an_error_that_nobody_foresaw_is_of_one_picture(job, monkeypatch):
  def examine(item, options):
    if item.id == 'a':
      raise OSError('encoder error -2\nwhen writing')
    return real(item, options)

  real = writer.examine
  monkeypatch.setattr(writer, 'examine', examine)
  records = (RECORDS[0], Item('e', parts.picture(2)))
  shard = writer.write_part(job, task(parts.Fixed('p', records)))
  reason = 'cannot be stored: OSError: encoder error -2 when writing'
  assert (shard.records, shard.bad) == (1, [['a', reason]])


def test_hashes_are_those_of_the_records(job, tmp_path):
  writer.write_part(job, task(parts.Fixed('p', RECORDS)))
  path = tmp_path / 'hashes' / 'train-00001-of-00003.npy'
  hashes = np.load(path, allow_pickle=False)
  assert [bytes(h) for h in hashes['sha256']] == [
    hashlib.sha256(parts.picture(i)).digest() for i in range(2)
  ]


@pytest.mark.parametrize('item', [RECORDS[0], Item('e', parts.picture(2))])
def test_a_record_is_what_tfds_writes(item):
  features = finish.features(parts.layout(train=[]))
  encoded = features.encode_example({
    'id': item.id,
    'image': item.image,
    'label': item.label,
    'text': list(item.captions),
  })
  serializer = tfds.core.example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  theirs = tf_example_pb2.Example.FromString(
    serializer.serialize_example(encoded)
  )
  ours = writer.serialised(item, labels=True, captions=True)
  assert tf_example_pb2.Example.FromString(ours) == theirs


def test_without_labels_and_captions_there_are_no_such_fields():
  data = writer.serialised(RECORDS[0], labels=False, captions=False)
  assert set(fields(data)) == {'id', 'image'}


def test_a_part_is_read_once(job):
  part = parts.Fixed('p', RECORDS)
  first = writer.write_part(job, task(part))
  unread = dataclasses.replace(part, records=())
  assert writer.write_part(job, task(unread)) == first


CHANGES = {
  'key': lambda job, part: (job, dataclasses.replace(part, key='q')),
  'fingerprint': lambda job, part: (
    job, dataclasses.replace(part, fingerprint='changed')
  ),
  'options': lambda job, part: (
    dataclasses.replace(job, plan='another'), part
  ),
}  # fmt: skip


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_part_is_read_again(job, change):
  part = parts.Fixed('p', RECORDS)
  writer.write_part(job, task(part))
  part = dataclasses.replace(part, records=RECORDS[:1])
  changed_job, changed = CHANGES[change](job, part)
  assert writer.write_part(changed_job, task(changed)).records == 1


def cut(path):
  path.write_bytes(path.read_bytes()[:200])


def spoil(path):
  path.write_text(json.dumps({'records': 2}))


@pytest.mark.parametrize('damage', [cut, lambda path: path.unlink(), spoil])
@pytest.mark.parametrize('name', ['shard', 'side'])
def test_a_damaged_shard_is_written_again(job, tmp_path, name, damage):
  one = task(parts.Fixed('p', RECORDS))
  writer.write_part(job, one)
  before = writing.content(tmp_path)
  damage(tmp_path / getattr(one, name))
  assert writer.written(job, one) is None
  writer.write_part(job, one)
  assert writing.content(tmp_path) == before


def test_bytes_are_on_the_disk_before_they_have_a_name(tmp_path, monkeypatch):
  synced, named = set(), {}

  def fsync(file):
    synced.add(os.fstat(file).st_ino)

  def replace(path, target):
    named[os.path.relpath(target, tmp_path)] = os.stat(path).st_ino in synced
    real(path, target)

  real = os.replace
  monkeypatch.setattr(os, 'fsync', fsync)
  monkeypatch.setattr(os, 'replace', replace)
  part = parts.Fixed('p', RECORDS[:1])
  writing.write(parts.layout(train=[part]), tmp_path)
  assert set(named) >= {
    '.unfinished/source',
    '.unfinished/train-00000-of-00001.json',
    'dataset_info.json',
    'hashes/train-00000-of-00001.npy',
    'manifest.json',
    'pictures-train.array_record-00000-of-00001',
  }
  assert all(named.values())
  for name in ('features.json', 'hashes', '.'):
    assert os.stat(tmp_path / name).st_ino in synced


def test_a_reader_that_fails_leaves_nothing(job, tmp_path):
  with pytest.raises(ValueError, match='row 7'):
    writer.write_part(job, task(parts.Wrong('p', 3)))
  assert writing.content(tmp_path) == {}


def test_only_options_that_change_bytes_are_of_the_plan(tmp_path):
  layout = parts.layout(train=[])
  plan = lambda **changed: writer.Job.of(
    layout, tmp_path, dataclasses.replace(writing.GENEROUS, **changed)
  ).plan
  assert plan(max_bad=0.1) == plan(absolute=True) == plan()
  assert len({plan(), plan(short_side=9), plan(quality=3), plan(text='t')}) == 4
