"""Decoding: what comes of odd pictures, and what is said of broken ones."""

import concurrent.futures
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from m3i_jax.data import crops, pictures
from m3i_jax.data.pictures import PictureError, decode, open_picture
from tests.data import bad_pictures, odd_pictures

ODD, BROKEN = odd_pictures.odd(), bad_pictures.broken()
BOMBS = [name for name in BROKEN if 'huge' in name or 'MiB' in name]


@pytest.mark.parametrize('name', ODD)
def test_an_odd_picture(name):
  data, want, tolerance = ODD[name]
  got = decode(data)
  assert got.dtype == np.uint8 and got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_picture(name):
  data, start = BROKEN[name]
  with pytest.raises(PictureError) as caught:
    decode(data)
  assert str(caught.value).startswith(start)
  whole = {'a': crops.Crop(8)}
  with pytest.raises(PictureError):
    crops.cut_all(data, whole, lambda _: np.random.default_rng(0))


def test_bombs_take_no_memory():
  """Peak memory of a process that opens all of them, and of one picture."""
  code = '''if True:
    import resource
    from m3i_jax.data import pictures
    from tests.data import bad_pictures, odd_pictures
    cases = bad_pictures.broken()
    pictures.decode(odd_pictures.odd()['jpeg'][0])
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = peak()
    for name in BOMBS:
      try:
        pictures.decode(cases[name][0])
      except pictures.PictureError:
        pass
    print(peak() - before)
  '''
  run = [sys.executable, '-c', code.replace('BOMBS', repr(BOMBS))]
  kibibytes = subprocess.run(run, capture_output=True, check=True).stdout
  assert len(BOMBS) >= 12
  assert int(kibibytes) < 50 * 1024


def test_the_limit_is_read_from_the_header(monkeypatch):
  data = odd_pictures.encoded(odd_pictures.NOISE, 'PNG')
  monkeypatch.setattr(pictures, 'MAX_PIXELS', 40 * 56)
  open_picture(data)
  monkeypatch.setattr(pictures, 'MAX_PIXELS', 40 * 56 - 1)
  with pytest.raises(PictureError, match='^too large: 56x40 pixels$'):
    open_picture(data)


def test_a_line_that_is_too_long():
  file = io.BytesIO()
  Image.new('1', (1_000_001, 1)).save(file, 'PNG')
  with pytest.raises(PictureError, match='^too large: 1000001x1 pixels$'):
    open_picture(file.getvalue())


def test_a_lack_of_memory_is_named(monkeypatch):
  def load(_):
    raise MemoryError

  monkeypatch.setattr(PngImagePlugin.PngImageFile, 'load', load)
  with pytest.raises(PictureError, match='^unreadable: MemoryError$'):
    decode(next(data for data, *_ in ODD.values() if data[1:4] == b'PNG'))


def test_pillows_limit_and_its_warnings_play_no_part(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40 * 56 - 1)
  data = odd_pictures.encoded(odd_pictures.NOISE, 'PNG')
  with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter('always')
    np.testing.assert_array_equal(decode(data), odd_pictures.NOISE)
  assert not heard


def test_changed_bytes_raise_nothing_else(monkeypatch):
  monkeypatch.setattr(pictures, 'MAX_PIXELS', 10**6)  # or some take long
  rng = np.random.default_rng(0)
  read = 0
  for data, _, _ in ODD.values():
    for length in (len(data), 200):  # anywhere, then in the head
      changed = bytearray(data)
      for at in rng.integers(0, min(length, len(data)), 3):
        changed[at] = rng.integers(256)
      try:
        read += decode(bytes(changed)).shape[2] == 3
      except PictureError:
        pass
  assert 0 < read < 2 * len(ODD)


def test_threads_decode_alike():
  many = [data for data, _, _ in ODD.values()] * 4
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    threaded = list(pool.map(decode, many))
  for data, got in zip(many, threaded, strict=True):
    np.testing.assert_array_equal(got, decode(data))


def test_arrays_pass_through():
  assert decode(odd_pictures.NOISE) is odd_pictures.NOISE
