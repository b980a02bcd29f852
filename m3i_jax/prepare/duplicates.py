"""Pictures that occur twice, or nearly so: inside a split, and between splits.

  python -m m3i_jax.prepare.duplicates DIR [DIR...] [--out=FILE]

compares all splits of prepared directories, by the hashes that they keep, and
prints how many records have an earlier one like them: `exact` (equal bytes) or
`alike` (difference hashes within BITS of 64 bits, as after a change of size or
quality; also plain pictures, which all look alike to them). FILE gets a line
for each. Order is that of the DIRs and of their splits.
"""

import dataclasses
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from etils import epath

from m3i_jax.errors import UserError
from m3i_jax.prepare import manifest
from m3i_jax.prepare.examine import HASHES

FILE = 'duplicates.jsonl'
BITS = 4
# Of six bands of bits, two are equal where four bits differ: 15 tables in which
# only equal keys are compared.
_BANDS = (0, 11, 22, 33, 44, 54, 64)
# Hashes of one key that are compared with each: a bound where nearly all
# pictures have the same background.
_REACH = 2000


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of a prepared directory; `told` is its name in the report."""

  directory: epath.Path
  told: str
  shards: list[dict]
  records: int


@dataclasses.dataclass(frozen=True)
class Twin:
  """A record and an earlier one like it, as places in the order of all."""

  record: int
  of: int
  exact: bool
  bits: int


def report(directories: Sequence[str], out: str | None) -> list[str]:
  """The lines to print; all that was found goes to the file `out`, if given."""
  splits, hashes = _load(directories)
  sizes = [split.records for split in splits]
  which = np.repeat(np.arange(len(splits)), sizes)
  twins = list(find(hashes, which))
  counts = Counter(
    (which[twin.record], which[twin.of], twin.exact) for twin in twins
  )
  lines = []
  for later, earlier in itertools.product(range(len(splits)), repeat=2):
    exact, alike = (counts[later, earlier, kind] for kind in (True, False))
    if exact + alike:
      place = f'of {splits[later].told} also in {splits[earlier].told} (a leak)'
      inside = f'inside {splits[later].told}'
      where = inside if later == earlier else place
      lines.append(f'duplicates: {exact} exact, {alike} alike {where}')
  if out:
    with epath.Path(out).open('w') as file:
      file.writelines(_listed(twins, splits, which))
    lines.append(f'duplicates: listed in {out}')
  return lines if twins else ['duplicates: none']


def find(hashes: np.ndarray, split: np.ndarray) -> Iterator[Twin]:
  """For each record and split, the earlier record there that is most like it.

  Args:
    hashes: examine.HASHES [N].
    split: int [N].
  """
  digests = np.ascontiguousarray(hashes['sha256']).view('<u8')
  same, _ = _numbered(digests)
  alike, values = _numbered(hashes['dhash'][:, None])
  near = _neighbours(values[:, 0])
  copied = np.bincount(same)[same] > 1
  resembled = np.bincount(alike) > 1
  resembled[list(near)] = True
  resembled = resembled[alike]
  first_same = _firsts(same, split, copied)
  first_alike = _firsts(alike, split, resembled)
  for i in np.flatnonzero(copied | resembled).tolist():
    exact = {s: j for s, j in first_same.get(same[i], {}).items() if j < i}
    for j in exact.values():
      yield Twin(i, j, True, 0)
    best = {}
    for bits, value in ((0, alike[i]), *near.get(alike[i], ())):
      for s, j in first_alike[value].items():
        if j < i and s not in exact:
          best[s] = min(best.get(s, (BITS + 1, 0)), (bits, j))
    for bits, j in best.values():
      yield Twin(i, j, False, bits)


def _numbered(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Of uint64 [N, n]: the number of each row's value [N], and the values."""
  order = np.lexsort(rows.T)
  ordered = rows[order]
  new = np.ones(len(rows), bool)
  new[1:] = (ordered[1:] != ordered[:-1]).any(1)
  number = np.empty(len(rows), np.int64)
  number[order] = np.cumsum(new) - 1
  return number, ordered[new]


def _firsts(
  values: np.ndarray, split: np.ndarray, of: np.ndarray
) -> dict[int, dict[int, int]]:
  """{value: {split: its first record there}}, of the records in the mask."""
  firsts = {}
  for i in np.flatnonzero(of).tolist():
    firsts.setdefault(values[i], {}).setdefault(int(split[i]), i)
  return firsts


def _neighbours(values: np.ndarray) -> dict[int, list[tuple[int, int]]]:
  """Of different uint64 values: {i: [(bits, j)]} where 0 < bits <= BITS."""
  bands = [
    np.uint64((1 << high) - (1 << low))
    for low, high in itertools.pairwise(_BANDS)
  ]
  pairs = {
    pair
    for one, other in itertools.combinations(bands, 2)
    for pair in _equal_keys(values, one | other)
  }
  near = {}
  for i, j, bits in sorted(pairs):
    near.setdefault(i, []).append((bits, j))
    near.setdefault(j, []).append((bits, i))
  return near


def _equal_keys(
  values: np.ndarray, mask: np.uint64
) -> Iterator[tuple[int, int, int]]:
  """(i, j, bits) of near values that are equal where the mask is 1."""
  order = np.argsort(values & mask, kind='stable')
  keys = values[order] & mask
  at = np.arange(len(values))
  for reach in range(1, _REACH):
    at = at[at + reach < len(values)]
    at = at[keys[at] == keys[at + reach]]
    if not len(at):
      return
    i, j = order[at], order[at + reach]
    bits = np.bitwise_count(values[i] ^ values[j])
    close = bits <= BITS
    i, j, bits = (array[close].tolist() for array in (i, j, bits))
    yield from (
      (min(a, b), max(a, b), n) for a, b, n in zip(i, j, bits, strict=True)
    )


def _load(directories: Sequence[str]) -> tuple[list[Split], np.ndarray]:
  """The splits of prepared directories, and examine.HASHES of all records."""
  splits, hashes = [], []
  for directory in directories:
    found = manifest.read(directory)
    if wrong := manifest.verify(directory):
      raise UserError(wrong[0])
    if found is None:
      raise UserError(f'{directory} was not made by m3i_jax.prepare')
    place = epath.Path(directory)
    for name, split in found['splits'].items():
      told = name if len(directories) == 1 else f'{directory}:{name}'
      splits.append(Split(place, told, split['shards'], split['records']))
      for shard in split['shards']:
        hashes.append(_hashes(place / shard['hashes'], shard['records']))
  return splits, np.concatenate(hashes)


def _hashes(path: epath.Path, records: int) -> np.ndarray:
  try:
    with path.open('rb') as file:
      found = np.load(file, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from error
  if found.dtype != HASHES or found.shape != (records,):
    raise UserError(f'{path} is not what prepare wrote')
  return found


def _listed(
  twins: Sequence[Twin], splits: Sequence[Split], which: np.ndarray
) -> Iterator[str]:
  """A line of JSON for each of `twins`."""
  names = _names({i for twin in twins for i in (twin.record, twin.of)}, splits)
  for twin in twins:
    told = {'kind': 'exact' if twin.exact else 'alike', 'bits': twin.bits}
    for key, i in (('', twin.record), ('of_', twin.of)):
      told[f'{key}split'] = splits[which[i]].told
      told[f'{key}id'] = names[i]
    yield json.dumps(told, ensure_ascii=False) + '\n'


def _names(records: set[int], splits: Sequence[Split]) -> dict[int, str]:
  """The ids of records, which are read for it, shard by shard."""
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2

  names, start, wanted = {}, 0, np.array(sorted(records), np.int64)
  for split in splits:
    for shard in split.shards:
      end = start + shard['records']
      inside = wanted[(wanted >= start) & (wanted < end)]
      if len(inside):
        path = str(split.directory / shard['file'])
        reader = array_record_module.ArrayRecordReader(path)
        for i in inside.tolist():
          (data,) = reader.read([i - start])
          example = tf_example_pb2.Example.FromString(data)
          (name,) = example.features.feature['id'].bytes_list.value
          names[i] = name.decode()
        reader.close()
      start = end
  return names


def run(argv: Sequence[str]) -> None:
  """The command; a mistake is one line and exit code 2."""
  flags.DEFINE_string('out', None, 'file that gets a line for each')
  try:
    directories = flags.FLAGS(argv)[1:]
    if not directories or '--help' in argv:
      raise UserError('name prepared directories: DIR [DIR...] [--out=FILE]')
    print('\n'.join(report(directories, flags.FLAGS.out)))
  except (flags.Error, UserError) as error:
    print(f'm3i_jax: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  run(sys.argv)
