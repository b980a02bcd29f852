"""Fashion-MNIST, all of it, by TFDS's own builder and from a folder of PNGs.

Needs the four .gz files of Debian's dataset-fashion-mnist (the directory that
M3I_FASHION_MNIST names), and a Python with TensorFlow (launch/setup.sh
tensorflow, or M3I_TENSORFLOW_PYTHON).
"""

import collections
import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

ROOT = Path(__file__).parents[2]
PYTHON = Path(
  os.environ.get(
    'M3I_TENSORFLOW_PYTHON', ROOT / '.venv' / 'tensorflow' / 'bin' / 'python'
  )
)
GIVEN = os.environ.get('M3I_FASHION_MNIST')
# Of the headers that Debian has taken out: seconds since 1970.
TIMES = {'train': 1504176606, 't10k': 1504176627}
SPLITS = {'train': ('train', 60_000), 'test': ('t10k', 10_000)}

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not GIVEN, reason='M3I_FASHION_MNIST is not set'),
]

BUILD = """
import sys, tensorflow_datasets as tfds
data_dir, manual_dir = sys.argv[1:]
builder = tfds.builder(
  'fashion_mnist', data_dir=data_dir, file_format='array_record')
builder.download_and_prepare(
  download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
print(builder.data_dir)
"""


def original(path: Path) -> bytes:
  """The file as published: TFDS knows its SHA-256. Debian's lacks the name
  and the time of the gzip header."""
  time = TIMES[path.name.split('-')[0]].to_bytes(4, 'little')
  name = path.name.removesuffix('.gz').encode()
  header = b'\x1f\x8b\x08\x08' + time + b'\0\x03' + name + b'\0'
  return header + path.read_bytes()[10:]


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Pictures uint8 [N, 28, 28] and labels uint8 [N], from IDX."""
  prefix, count = SPLITS[split]
  read = lambda kind, start: np.frombuffer(
    gzip.decompress((Path(GIVEN) / f'{prefix}-{kind}-ubyte.gz').read_bytes()),
    np.uint8, offset=start,
  )  # fmt: skip
  pictures = read('images-idx3', 16).reshape(count, 28, 28)
  return pictures, read('labels-idx1', 8)


def counted(directory: Path, split: str) -> collections.Counter:
  """How often a picture of 28 x 28 grey pixels has a label."""
  source = tfds.builder_from_directory(directory).as_data_source(split)
  return collections.Counter(
    (hashlib.sha256(record['image'][..., 0].tobytes()).digest(),
     int(record['label']))
    for record in source
  )  # fmt: skip


@pytest.fixture(scope='module')
def theirs(tmp_path_factory) -> Path:
  if not PYTHON.exists():
    pytest.skip('no TensorFlow: launch/setup.sh tensorflow')
  files, data = (tmp_path_factory.mktemp(name) for name in ('files', 'tfds'))
  for path in Path(GIVEN).glob('*-ubyte.gz'):
    (files / path.name).write_bytes(original(path))
  done = subprocess.run(
    [PYTHON, '-c', BUILD, data, files], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return Path(done.stdout.split()[-1])


@pytest.fixture(scope='module')
def ours(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp('folder')
  for split in SPLITS:
    for label in range(10):
      (folder / split / str(label)).mkdir(parents=True)
    pairs = zip(*arrays(split), strict=True)
    for i, (pixels, label) in enumerate(pairs):
      Image.fromarray(pixels).save(folder / split / f'{label}/{i:05d}.png')
  out = tmp_path_factory.mktemp('ours') / 'set'
  subprocess.run(
    [sys.executable, '-m', 'm3i_jax.prepare', folder, f'--out={out}'],
    check=True, cwd=ROOT,
  )  # fmt: skip
  return out


@pytest.mark.parametrize('split', SPLITS)
def test_every_picture_and_label_arrives(ours, split):
  pictures, labels = arrays(split)
  source = tfds.builder_from_directory(ours).as_data_source(split)
  assert len(source) == SPLITS[split][1]
  seen = set()
  for record in source:
    place = Path(record['id'].decode())
    i = int(place.stem)
    seen.add(i)
    assert int(record['label']) == labels[i] == int(place.parent.name)
    np.testing.assert_array_equal(
      record['image'], np.repeat(pictures[i][..., None], 3, -1)
    )
  assert len(seen) == len(source)


@pytest.mark.parametrize('split', SPLITS)
def test_they_are_those_of_tfds(theirs, ours, split):
  found = counted(ours, split)
  assert found == counted(theirs, split)
  assert found.total() == SPLITS[split][1]
