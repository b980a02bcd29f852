"""What is no data set yet is told from what `prepare` can make one of."""

import pytest

from m3i_jax.data import places
from m3i_jax.errors import UserError
from m3i_jax.prepare import conventions, tables, tars

KNOWN = (*conventions.PICTURES, 'GIF', 'tgz', 'tsv')


def refusal(place) -> str:
  with pytest.raises(UserError, match='no prepared data set') as error:
    places.directory(str(place))
  return str(error.value)


@pytest.mark.parametrize('suffix', KNOWN)
def test_a_folder_that_prepare_reads(tmp_path, suffix):
  (tmp_path / f'a.{suffix}').touch()
  assert f'm3i_jax.prepare {tmp_path} --out=DIR' in refusal(tmp_path)


@pytest.mark.parametrize('suffix', [*tables.SUFFIXES, *tars.SUFFIXES])
def test_a_file_that_prepare_reads(tmp_path, suffix):
  (tmp_path / f'a{suffix}').touch()
  told = refusal(tmp_path / f'a{suffix}')
  assert f'm3i_jax.prepare {tmp_path}/a{suffix} --out=DIR' in told
  assert f'm3i_jax.prepare {tmp_path} --out=DIR' in refusal(tmp_path)


def test_a_folder_of_something_else(tmp_path):
  (tmp_path / 'notes.md').touch()
  told = refusal(tmp_path)
  assert 'name a directory that m3i_jax.prepare has written' in told


def test_what_is_unfinished(tmp_path):
  (tmp_path / places.UNFINISHED).mkdir()
  with pytest.raises(UserError, match='run the same command again'):
    places.directory(str(tmp_path))
