"""The benchmark of loaders: its pictures, its reference, its sums."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from m3i_jax import bench
from m3i_jax.bench import input as inputs
from m3i_jax.bench import input_records, photos
from m3i_jax.data import crops, pictures, sources
from m3i_jax.errors import UserError

# Speaks as the child does; its views are those of a grey picture.
STUB = """
import sys
import numpy as np
boxes = np.load(sys.argv[1] + '/pictures.npz')['boxes']
views = np.full((len(boxes), 2, 224, 224, 3), 128, np.uint8)
for mode in ('equal', 'fastest'):
  np.save(f'{sys.argv[1]}/{mode}.npy', views)
print('ready', flush=True)
for line in sys.stdin:
  mode, threads, count = line.split()
  print(int(count) / 100, int(count) / (50 * int(threads)), flush=True)
"""


@pytest.fixture
def quick(monkeypatch, tmp_path):
  stub = tmp_path / 'stub.py'
  stub.write_text(STUB)
  monkeypatch.setattr(inputs, '_CHILD', stub)
  monkeypatch.setattr(inputs, 'TURN', inputs.BATCH)
  monkeypatch.setattr(inputs, '_apart', lambda files, boxes: {})


def ran(monkeypatch, capsys, *arguments):
  """The numbers of the last line."""
  monkeypatch.setattr(sys, 'argv', ['bench', 'input', *arguments])
  bench.run(bench.parse(sys.argv))
  return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_photos_are_as_large_as_photographs():
  first = photos.photo(0)
  assert 40_000 < len(first) < 55_000 and first == photos.photo(0)
  assert pictures.decode(first).shape == (375, 500, 3)
  assert pictures.decode(photos.shrunk(first, 256)).shape == (256, 341, 3)


def test_the_reference_is_what_pillow_rounds():
  pixels = pictures.decode(photos.photo(1))
  for box in ((10, 20, 300, 400), (30, 40, 100, 90)):  # to fewer, to more
    got = crops.cut(Image.fromarray(pixels), box, False, 224)
    want = photos.exact(pixels, np.array(box), 224)
    assert photos.psnr(got, want) > 52  # half a level everywhere is 54
    assert photos.psnr(got, want + 1.0) < 49


def test_every_loader_has_its_numbers(quick, monkeypatch, capsys):
  told = ran(
    monkeypatch, capsys, '--pictures=2', '--rounds=1', '--records=0',
    f'--tensorflow={sys.executable}',
  )  # fmt: skip
  assert told['pictures'] == 2 and 'records' not in told
  loaders = told['loaders']
  ours, plain = loaders[inputs.OURS], loaders['Pillow in a loop']
  assert ours['ours_over_it'] == 1 and ours['images_per_s'] > 0
  # Both are Pillow's antialiased bicubic, of the same boxes.
  assert ours['psnr_db'] > 52 and plain['psnr_db'] > 52
  child = loaders['tf.data, equal, 2 threads']
  assert child['images_per_s'] == 100 and child['images_per_cpu_s'] == 100
  assert child['ours_over_it'] == pytest.approx(ours['images_per_cpu_s'] / 100)
  assert child['psnr_db'] < 20


def test_a_python_without_tensorflow(quick, monkeypatch, tmp_path):
  broken = tmp_path / 'broken.py'
  broken.write_text('import no_such_module')
  monkeypatch.setattr(inputs, '_CHILD', broken)
  with pytest.raises(UserError, match='cannot run tf.data'):
    inputs.bench(1, 1, sys.executable, 0)


def test_a_python_that_is_not_there(quick, monkeypatch, capsys):
  with pytest.raises(SystemExit) as ended:
    ran(monkeypatch, capsys, '--pictures=1', '--tensorflow=/no/python')
  assert ended.value.code == 2
  told = capsys.readouterr().err
  assert "there is no '/no/python' to run" in told
  assert 'Traceback' not in told


def test_processes_are_timed_when_all_have_begun(monkeypatch):
  clock = iter((10.0, 13.0))
  monkeypatch.setattr(inputs.time, 'perf_counter', lambda: next(clock))
  seconds, _ = inputs._second_half(iter(range(5)), 5 * inputs.BATCH)
  assert seconds == 5.0  # three batches took three


def test_many_records_of_few_bytes(tmp_path):
  input_records.make(tmp_path, 5000)
  shards = list(tmp_path.glob('*.array_record-*'))
  assert len(shards) == 3 and len({s.stat().st_ino for s in shards}) == 2
  source = sources.open_source(str(tmp_path), 'train', sources.Fields())
  assert len(source) == 5000
  assert pictures.decode(source[4999]['image']).shape == (64, 64, 3)
