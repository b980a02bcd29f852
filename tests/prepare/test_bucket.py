"""A bucket gets what a directory gets, though it has no folders or renames.

The bucket is fsspec's file system in memory, under the name of gs://.
"""

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem

from m3i_jax.errors import UserError
from m3i_jax.prepare import manifest
from tests.prepare import parts, writing


class Bucket(MemoryFileSystem):
  """Objects by name: folders are those that have some."""

  protocol = ('gs', 'gcs')
  root_marker = ''
  store = {}
  pseudo_dirs = []

  @classmethod
  def _strip_protocol(cls, path):
    return MemoryFileSystem._strip_protocol(path.removeprefix('gs://'))

  def mkdir(self, path, create_parents=True, **kwargs):
    pass

  makedirs = mkdir

  def mv(self, *_, **__):
    raise AssertionError('a bucket does not rename')

  def content(self, prefix: str) -> dict[str, bytes]:
    return {
      name.removeprefix(prefix): file.getvalue()
      for name, file in self.store.items()
      if name.startswith(prefix)
    }


OUT = 'gs://mine/data/set'


@pytest.fixture
def bucket():
  backend.fsspec_backend._get_filesystem.cache_clear()
  fsspec.register_implementation('gcs', Bucket, clobber=True)
  Bucket.store.clear()
  yield Bucket()
  backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def expected(tmp_path):
  writing.write(parts.drawn(), tmp_path)
  return {
    str(path.relative_to(tmp_path)): path.read_bytes()
    for path in tmp_path.rglob('*')
    if path.is_file()
  }


def test_a_bucket_has_the_same_bytes(bucket, expected):
  writing.write(parts.drawn(), OUT)
  assert bucket.content('/mine/data/set/') == expected
  assert manifest.verify(OUT, full=True) == []
  writing.write(parts.drawn(), OUT, write=lambda *_: 1 / 0)  # nothing to do
  with pytest.raises(UserError, match='another source'):
    writing.write(parts.layout(train=[parts.Drawn('7', 5)]), OUT)


def first(job, tasks):
  """Is stopped when one part is written."""
  writing.in_process(job, tasks[:1])
  raise KeyboardInterrupt


def at_once(job, tasks):
  raise KeyboardInterrupt


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('stop', [first, at_once])
def test_stopped_it_goes_on(bucket, expected, overwrite, stop):
  if overwrite:
    writing.write(parts.layout(train=[parts.Drawn('7', 5)]), OUT)
  with pytest.raises(KeyboardInterrupt):
    writing.write(parts.drawn(), OUT, write=stop, overwrite=overwrite)
  assert 'dataset_info.json' not in bucket.content('/mine/data/set/')
  (finding,) = manifest.verify(OUT)
  assert 'prepare was stopped' in finding
  writing.write(parts.drawn(), OUT, overwrite=overwrite)
  assert bucket.content('/mine/data/set/') == expected
