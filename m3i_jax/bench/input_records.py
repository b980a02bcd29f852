"""How long a data set of many records takes to start, and what it holds."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

SHARD = 2048  # records, as `prepare` writes
SIDE = 64  # pixels of the only picture
READ = 100_000  # records over which memory is watched
BATCH = 256

# A process of its own: its time begins before any import.
_CHILD = """
import json, resource, sys, time
from m3i_jax.data import crops, pipeline, sources
import tensorflow_datasets

imported = time.time()

def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * resource.getpagesize() / 2**20

folder, read, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
source = sources.open_source(folder, 'train', sources.Fields())
recipe = pipeline.Recipe({'a': crops.Crop(32)})
steps = read // batch
made = pipeline.loader(source, recipe, seed=0, batch_size=batch, start_step=0,
                       stop_step=1 + steps, threads=2)
next(made)
first = time.time()
after = {}
for step in range(1, steps + 1):
  next(made)
  if step in (-(-steps // 10), steps):
    after[step] = resident()
print(json.dumps({
  'records': len(source), 'imported': imported, 'first': first,
  'resident': list(after.values()),
}))
"""


def bench(records: int) -> dict[str, float]:
  """Copies of one small record, read in a random order.

  Returns:
    'start_s': from a process's start to the first batch, 'of_these_imports_s'
    until JAX (which Grain brings), TFDS and all else are imported;
    'resident_mib' after a tenth of READ records, and 'growth_mib' after all.
  """
  with tempfile.TemporaryDirectory() as folder:
    make(pathlib.Path(folder), records)
    read = min(READ, records) // BATCH * BATCH
    begun = time.time()
    told = subprocess.run(
      [sys.executable, '-c', _CHILD, folder, str(read), str(BATCH)],
      check=True,
      stdout=subprocess.PIPE,
    ).stdout
  told = json.loads(told)
  early, late = told['resident'][0], told['resident'][-1]
  return {
    'records': told['records'],
    'start_s': told['first'] - begun,
    'of_these_imports_s': told['imported'] - begun,
    'resident_mib': early,
    'growth_mib': late - early,
  }


def make(folder: pathlib.Path, records: int) -> None:
  """A TFDS directory whose full shards are links to one file."""
  import numpy as np
  from PIL import Image

  from m3i_jax.bench import photos
  from m3i_jax.prepare import finish, writer
  from m3i_jax.prepare.items import Item, Layout

  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
  data = photos.jpeg(Image.fromarray(pixels), 50)
  record = writer.serialised(Item('0', data), False, False)
  full, rest = divmod(records, SHARD)
  lengths = [SHARD] * full + [rest] * (rest > 0)
  links = {}
  for number, length in enumerate(lengths):
    suffix = f'{number:05d}-of-{len(lengths):05d}'
    path = folder / f'{writer.NAME}-train.array_record-{suffix}'
    if length in links:
      os.link(links[length], path)
    else:
      links[length] = path
      _write(path, record, length)
  finish.features(Layout('', {}, (), False, '')).save_config(folder)
  (folder / 'dataset_info.json').write_text(json.dumps(_info(lengths, record)))


def _write(path: pathlib.Path, record: bytes, count: int) -> None:
  from array_record.python import array_record_module

  file = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for _ in range(count):
    file.write(record)
  file.close()


def _info(lengths: list[int], record: bytes) -> dict:
  return {
    'fileFormat': 'array_record',
    'name': 'pictures',
    'version': '1.0.0',
    'splits': [
      {
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'name': 'train',
        'numBytes': str(sum(lengths) * len(record)),
        'shardLengths': [str(length) for length in lengths],
      }
    ],
  }
