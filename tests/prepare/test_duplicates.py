"""Twins are found as by comparing all with all."""

import json
import subprocess
import sys

import numpy as np
import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import duplicates
from m3i_jax.prepare.duplicates import Twin
from m3i_jax.prepare.examine import HASHES
from m3i_jax.prepare.items import Item
from tests.prepare import parts, writing


def all_with_all(hashes, split):
  """What `find` gives, by its definition."""
  for i in range(len(hashes)):
    for s in sorted(set(split.tolist())):
      found = []
      for j in np.flatnonzero(split[:i] == s).tolist():
        one, other = hashes[i], hashes[j]
        exact = bytes(one['sha256']) == bytes(other['sha256'])
        bits = (int(one['dhash']) ^ int(other['dhash'])).bit_count()
        if exact or bits <= duplicates.BITS:
          found.append((not exact, 0 if exact else bits, j))
      if found:
        alike, bits, j = min(found)
        yield Twin(i, j, not alike, bits)


@pytest.mark.parametrize('seed', range(4))
def test_twins_are_those_of_comparing_all(seed):
  rng = np.random.default_rng(seed)
  hashes = np.zeros(300, HASHES)
  # Few different pictures, and hashes near each other in all places.
  pictures = rng.integers(0, 256, (250, 32), np.uint8)
  centres = rng.integers(0, 2**63, 250, np.uint64)
  which = rng.integers(0, 250, 300)
  hashes['sha256'], hashes['dhash'] = pictures[which], centres[which // 12]
  for bits in rng.integers(0, 64, (3, 250)).astype(np.uint64):
    hashes['dhash'] ^= (np.uint64(1) << bits)[which]
  split = np.repeat([0, 1, 2], 100)
  key = lambda twin: (twin.record, twin.of, twin.exact, twin.bits)
  found = sorted(duplicates.find(hashes, split), key=key)
  assert found == sorted(all_with_all(hashes, split), key=key)
  assert {twin.bits for twin in found} >= {0, 2, 4}
  assert {twin.exact for twin in found} == {True, False}


def test_every_change_of_four_bits_is_found():
  rng = np.random.default_rng(0)
  for _ in range(300):
    value = int(rng.integers(0, 2**62))
    other = value
    for bit in rng.choice(64, 4, replace=False).tolist():
      other ^= 1 << bit
    hashes = np.zeros(2, HASHES)
    hashes['dhash'] = [value, other]
    hashes['sha256'][1] = 1
    assert list(duplicates.find(hashes, np.zeros(2, int))) == [
      Twin(1, 0, False, 4)
    ]


def test_nothing_is_found_among_none():
  assert not list(duplicates.find(np.zeros(0, HASHES), np.zeros(0, int)))


def fixed(key: str, *seeds_and_qualities) -> parts.Fixed:
  items = tuple(
    Item(f'{key}{i}', parts.picture(seed, 'JPEG', quality=quality))
    for i, (seed, quality) in enumerate(seeds_and_qualities)
  )
  return parts.Fixed(key, items)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """train: 0, 1, 1 again | 2; test: 1 again, 2 at another quality, 3."""
  out = tmp_path_factory.mktemp('prepared')
  train = [fixed('a', (0, 95), (1, 95), (1, 95)), fixed('b', (2, 95))]
  test = [fixed('c', (1, 95), (2, 90), (3, 95))]
  writing.write(parts.layout(train=train, test=test), out)
  return out


def test_leaks_are_counted_and_listed(prepared, tmp_path):
  out = tmp_path / 'found.jsonl'
  lines = duplicates.report([str(prepared)], str(out))
  assert lines == [
    'duplicates: 1 exact, 0 alike inside train',
    'duplicates: 1 exact, 1 alike of test also in train (a leak)',
    f'duplicates: listed in {out}',
  ]
  found = [json.loads(line) for line in out.read_text().splitlines()]
  assert [(f['split'], f['id'], f['of_split'], f['of_id']) for f in found] == [
    ('train', 'a2', 'train', 'a1'),
    ('test', 'c0', 'train', 'a1'),
    ('test', 'c1', 'train', 'b0'),
  ]
  assert [f['kind'] for f in found] == ['exact', 'exact', 'alike']


def test_two_directories_are_compared(prepared, tmp_path):
  writing.write(parts.layout(train=[fixed('d', (3, 95), (7, 95))]), tmp_path)
  lines = duplicates.report([str(prepared), str(tmp_path)], None)
  assert lines[-1] == (
    f'duplicates: 1 exact, 0 alike of {tmp_path}:train also in '
    f'{prepared}:test (a leak)'
  )


def test_none_are_told(tmp_path):
  writing.write(parts.layout(train=[fixed('d', (3, 95), (7, 95))]), tmp_path)
  assert duplicates.report([str(tmp_path)], None) == ['duplicates: none']


@pytest.mark.parametrize('line', [[], ['--ou=3'], ['/no/such/place']])
def test_mistakes_are_one_line(line):
  done = subprocess.run(
    [sys.executable, '-m', 'm3i_jax.prepare.duplicates', *line],
    capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert done.returncode == 2
  assert done.stderr.startswith('m3i_jax: ')
  assert len(done.stderr.splitlines()) == 1


def test_a_stopped_prepare_is_a_mistake(tmp_path):
  (tmp_path / '.unfinished').mkdir()
  with pytest.raises(UserError, match='prepare was stopped'):
    duplicates.report([str(tmp_path)], None)


DAMAGES = ('missing', 'cut short', 'a pickle', 'other')


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_hashes_are_named(tmp_path, damage):
  writing.write(parts.layout(train=[fixed('d', (3, 95), (7, 95))]), tmp_path)
  path = tmp_path / 'hashes' / 'train-00000-of-00001.npy'
  if damage == 'missing':
    path.unlink()
  elif damage == 'cut short':
    path.write_bytes(path.read_bytes()[:-1])
  elif damage == 'a pickle':
    np.save(path, np.array([{}]), allow_pickle=True)
  else:
    np.save(path, np.zeros(2))
  with pytest.raises(UserError, match='train-00000-of-00001.npy'):
    duplicates.report([str(tmp_path)], None)
