"""Files that are whole, or not there."""

import pytest

from m3i_jax import files


def test_a_file_is_written(tmp_path):
  files.write(tmp_path / 'a', 'text')
  files.write(tmp_path / 'a', b'bytes')
  assert (tmp_path / 'a').read_bytes() == b'bytes'
  assert [x.name for x in tmp_path.iterdir()] == ['a']


def test_nothing_is_left_of_what_fails(tmp_path):
  (tmp_path / 'a').mkdir()
  with pytest.raises(OSError):
    files.write(tmp_path / 'a', 'text')
  with pytest.raises(KeyboardInterrupt), files.replaced(tmp_path / 'b') as x:
    x.write_text('half')
    raise KeyboardInterrupt
  assert [x.name for x in tmp_path.iterdir()] == ['a']
