"""The bundled data set: complete, leak-free, and with its notices."""

import io
import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from m3i_jax.data import build_emoji64
from m3i_jax.data.sources import Fields, open_source

FIELDS = Fields(label='group', text='caption', tags='keywords', id='id')
COUNTS = {'train': 2608, 'heldout': 622, 'vendor': 1288, 'vendor_heldout': 311}
HERE = pathlib.Path(build_emoji64.__file__).parent / 'emoji64'


@pytest.fixture(scope='module')
def records():
  sources = {s: open_source('emoji64', s, FIELDS) for s in COUNTS}
  return {
      split: [source[i] for i in range(len(source))]
      for split, source in sources.items()
  }


def test_counts_are_those_documented(records):
  assert {split: len(rows) for split, rows in records.items()} == COUNTS
  for split, count in COUNTS.items():
    concepts = len({row['concept'] for row in records[split]})
    rows = build_emoji64.__doc__.splitlines()
    row = next(row for row in rows if row.startswith(f'| {split} '))
    assert row.replace(' ', '').endswith(f'|{count}|{concepts}|')


def test_no_family_is_both_seen_and_held_out(records):
  subgroups = open_source('emoji64', 'train', FIELDS).names['subgroup']

  def families(*splits):
    return {
        build_emoji64.family({
            'key': row['concept'],
            'name': row['caption'],
            'subgroup': subgroups[row['subgroup']],
        })
        for split in splits
        for row in records[split]
    }

  seen = families('train', 'vendor')
  unseen = families('heldout', 'vendor_heldout')
  assert not seen & unseen
  assert len(seen | unseen) == 1313
  concepts = {row['concept'] for row in records['train']}
  assert not concepts & {row['concept'] for row in records['vendor_heldout']}
  assert not concepts & {row['concept'] for row in records['heldout']}


def test_vendors_and_classes_of_the_splits(records):
  vendors = {
      split: {row['id'].split('/')[0] for row in rows}
      for split, rows in records.items()
  }
  assert vendors['train'] == vendors['heldout'] == {'noto', 'twemoji'}
  assert vendors['vendor'] == vendors['vendor_heldout'] == {'fluent3d'}
  assert {row['subgroup'] for row in records['train']} == set(range(95))
  assert {row['label'] for row in records['train']} == set(range(8))


def test_pictures_are_whole(records):
  for rows in records.values():
    assert {row['image'].shape for row in rows} == {(64, 64, 3)}
    assert min(row['image'].std() for row in rows) > 2  # white squares


@pytest.mark.parametrize(
    ('first', 'second', 'together'),
    [
        ('1f468-200d-1f373', '1f469-200d-1f373', True),  # man, woman cook
        ('1f550', '1f567', True),  # clocks
        ('1f311', '1f31d', True),  # moons
        ('1f468', '1f9d1-200d-1f9b0', True),  # man, person: red hair
        ('1f408', '1f408-200d-2b1b', True),  # cat, black cat
        ('1f408', '1f415', False),  # cat, dog
        ('2640', '2642', False),  # the signs by themselves
    ],
)
def test_families(first, second, together):
  first, second = [
      build_emoji64.family({'key': key, 'name': '', 'subgroup': ''})
      for key in (first, second)
  ]
  assert (first == second) == together


def test_notices():
  notice = (HERE / 'NOTICE.md').read_text()
  for words in (
      'Noto Emoji', 'Google', 'Apache-2.0', 'Twemoji', 'Twitter', 'CC-BY-4.0',
      'Fluent Emoji', 'Microsoft', 'MIT', 'Unicode-3.0', 'Cal Henderson',
      'resized', 're-encoded',
  ):
    assert words in notice


def _archive(path):
  picture = io.BytesIO()
  pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
  Image.fromarray(pixels).save(picture, 'WEBP')
  keys = [f'1f{i:03x}' for i in range(0x400, 0x440)]
  concepts = [
      {'key': key, 'name': key, 'keywords': [key, 'x'], 'group': 'g',
       'subgroup': 's', 'added': '1'}
      for key in keys
  ]
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('concepts.json', json.dumps(concepts))
    for vendor in build_emoji64.VENDORS:
      for key in keys:
        archive.writestr(f'{vendor}/{key}.webp', picture.getvalue())
  return picture.getvalue()


def test_building_twice_gives_the_same_bytes(tmp_path):
  """In two processes: each has its own order of a protobuf's map."""
  picture = _archive(tmp_path / 'some.zip')
  archive = str(tmp_path / 'some.zip')
  build_emoji64.build(archive, tmp_path / 'one')
  subprocess.run(
      [sys.executable, '-m', 'm3i_jax.data.build_emoji64', archive,
       tmp_path / 'two'],
      check=True, capture_output=True,
  )
  trees = [
      {file.name: file.read_bytes() for file in path.iterdir()}
      for path in (tmp_path / n / 'emoji64' / '1.0.0' for n in ('one', 'two'))
  ]
  assert trees[0] == trees[1]
  info = json.loads(trees[0]['dataset_info.json'])
  assert [split['name'] for split in info['splits']] == list(COUNTS)
  shards = [data for name, data in trees[0].items() if 'array_record' in name]
  assert all(picture[:64] in shard for shard in shards)
