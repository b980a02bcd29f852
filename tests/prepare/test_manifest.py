"""The manifest says what is there, and finds what no longer is."""

import json

import numpy as np
import pytest

from m3i_jax.prepare import manifest
from m3i_jax.prepare.counts import Counts
from m3i_jax.prepare.examine import Examined
from m3i_jax.prepare.items import Bad, Item
from tests.prepare import parts, writing


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  out = tmp_path_factory.mktemp('prepared')
  return out, writing.write(parts.drawn(), out)


@pytest.fixture
def copy(prepared, tmp_path):
  out, _ = prepared
  for path in out.rglob('*'):
    if path.is_file():
      target = tmp_path / path.relative_to(out)
      target.parent.mkdir(exist_ok=True)
      target.write_bytes(path.read_bytes())
  return tmp_path


SHARD = 'pictures-train.array_record-00001-of-00003'


def test_what_it_counts(prepared):
  out, told = prepared
  assert told == json.loads((out / 'manifest.json').read_text())
  assert told == manifest.read(out)
  records = [
    record
    for part in parts.drawn().splits['train']
    for i, record in enumerate(part)
    if isinstance(record, Item) and i % 7 != 6
  ]
  train = told['splits']['train']
  assert train['records'] == len(records)
  assert train['formats'] == {'PNG': len(records)}
  assert train['short_side'] == dict.fromkeys(
    ('min', 'mean', 'median', 'p95', 'max'), 16
  )
  labels = [record.label for record in records]
  assert train['labels'] == {
    name: labels.count(i) for i, name in enumerate(parts.CLASSES)
  }
  assert train['unlabelled'] == labels.count(-1)
  captions = [text for record in records for text in record.captions]
  assert train['captions']['captions'] == len(captions)
  assert train['captions']['records'] == sum(bool(r.captions) for r in records)
  assert train['captions']['words']['max'] == 4
  assert [shard['records'] for shard in train['shards']] == [17, 8, 11]


def test_spreads_are_exact():
  values = np.random.default_rng(0).integers(1, 500, 1001)
  halves = Counts(), Counts()
  for i, width in enumerate(values):
    one = Examined(Item('', b''), 'PNG', 1000, int(width), b'', 0)
    halves[i % 2].add(one)
  total = Counts()
  for half in halves:
    total += Counts(json.loads(json.dumps(half.stored())))
  assert total.spread('short_sides') == {
    'min': values.min(),
    'mean': round(values.mean(), 2),
    'median': np.sort(values)[500],
    'p95': np.percentile(values, 95, method='inverted_cdf'),
    'max': values.max(),
  }
  assert Counts().spread('short_sides') == {}


def test_reasons_are_counted_by_their_beginning():
  counts = Counts()
  for reason in ('cut short: at 7', 'cut short: at 9', 'no picture'):
    counts.add(Bad('a', reason))
  assert counts['reasons'] == {'cut short': 2, 'no picture': 1}


def test_a_sound_directory_has_no_findings(copy):
  assert manifest.verify(copy) == []
  assert manifest.verify(copy, full=True) == []


def test_a_directory_of_others_has_no_findings(tmp_path):
  assert manifest.verify(tmp_path) == []


def test_a_missing_shard_is_named(copy):
  (copy / SHARD).unlink()
  assert manifest.verify(copy) == [f'{copy / SHARD} is missing (8 records)']


def test_a_short_shard_is_named(copy):
  (copy / SHARD).write_bytes((copy / SHARD).read_bytes()[:1000])
  assert manifest.verify(copy) == [
    f'{copy / SHARD} has 1000 bytes instead of 131072'
  ]


def test_a_changed_byte_is_found_by_reading_all(copy):
  data = bytearray((copy / SHARD).read_bytes())
  data[200] ^= 1
  (copy / SHARD).write_bytes(data)
  assert manifest.verify(copy) == []
  (finding,) = manifest.verify(copy, full=True)
  assert finding == (
    f'{copy / SHARD} is damaged: its SHA-256 is not that of the manifest'
  )


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
def test_missing_files_of_tfds_are_named(copy, name):
  (copy / name).unlink()
  assert manifest.verify(copy) == [f'{copy / name} is missing']


def test_a_stopped_prepare_is_told(copy):
  (copy / '.unfinished').mkdir()
  assert manifest.verify(copy) == [
    f'{copy}: prepare was stopped there: run the same command again'
  ]


@pytest.mark.parametrize('text', ['', '{"splits"', '[]', '{}'])
def test_a_damaged_manifest_is_told(copy, text):
  (copy / 'manifest.json').write_text(text)
  (finding,) = manifest.verify(copy)
  assert 'manifest.json is damaged' in finding
