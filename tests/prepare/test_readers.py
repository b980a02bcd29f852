"""What is recognised as what, and what is refused with one line."""

import json
import os
import subprocess
import sys

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import labels, raw
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture


@pytest.mark.parametrize(
    ('files', 'source', 'told'),
    [
        ({}, 'nothing', 'no such file or folder: .*nothing; understood is a'),
        ({}, '', 'no files seen; understood is a folder of pictures'),
        ({'a.pdf': '', 'b.pdf': '', 'c': ''}, '',
         'no pictures; seen are files 2 .pdf, 1 without suffix; understood'),
        ({'a.zip': ''}, 'a.zip', 'is packed: unpack it'),
        ({'a.tar.bz2': ''}, 'a.tar.bz2', 'is packed: unpack it'),
        ({'a.csv.gz': ''}, 'a.csv.gz', 'is packed: unpack it'),
        ({'a.jpg': ''}, 'a.jpg', 'is one picture: name its folder'),
        ({'a.bin': ''}, 'a.bin', 'is not understood; understood is a folder'),
        ({'a.jpg': '', 'b.tar': ''}, '', r'has pictures \(a.jpg\) and tars'),
    ],
)  # fmt: skip
def test_refused_in_one_line(tmp_path, files, source, told):
  making.tree(tmp_path, files)
  with pytest.raises(UserError, match=told) as refused:
    recognise(str(tmp_path / source), Options())
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('source', ['gs://bucket/x', 'https://a.b/x.tar'])
def test_addresses_are_refused(source):
  with pytest.raises(UserError, match='is an address: copy it to this machine'):
    recognise(source, Options())


def test_links_only(tmp_path):
  (tmp_path / 'a.png').symlink_to('/nowhere.png')
  with pytest.raises(UserError, match='1 link not followed'):
    recognise(str(tmp_path), Options())


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
  def scandir(path):
    raise PermissionError(13, 'Permission denied', path)

  making.tree(tmp_path, {'a.png': picture()})
  monkeypatch.setattr(os, 'scandir', scandir)
  with pytest.raises(UserError, match='cannot read .*: Permission denied'):
    recognise(str(tmp_path), Options())


def test_a_table_beside_pictures_is_no_source_unless_it_is_named(tmp_path):
  making.tree(tmp_path, {
      'cat/a.png': picture(), 'labels.csv': 'path,label\ncat/a.png,dog\n'
  })  # fmt: skip
  assert recognise(str(tmp_path), Options()).kind == 'folder'
  layout = recognise(str(tmp_path / 'labels.csv'), Options())
  assert layout.kind == 'table' and layout.classes == ('dog',)


@pytest.mark.parametrize('name', ['image', 'label', 'text', 'id'])
def test_columns_of_a_folder_are_refused(tmp_path, name):
  making.tree(tmp_path, {'cat/a.png': picture()})
  with pytest.raises(UserError, match=f'--{name} names a column of a table,'):
    recognise(str(tmp_path), Options(**{name: 'x'}))
  tar = making.tar({'a.png': picture(), 'a.x': b'a cat'})
  making.tree(tmp_path / 'tars', {'a.tar': tar})
  if name == 'id':
    with pytest.raises(UserError, match="--id names .* kind 'webdataset'"):
      recognise(str(tmp_path / 'tars'), Options(id='x'))
  if name == 'text':
    assert recognise(str(tmp_path / 'tars'), Options(text='x')).captions


def test_a_split_of_a_source_that_has_its_own_is_refused(tmp_path):
  making.tree(tmp_path, {'train/a.png': picture(), 'val/a.png': picture(1)})
  for split in ('test', 'validation'):
    with pytest.raises(UserError, match='own splits, train, validation: leave'):
      recognise(str(tmp_path), Options(split=split))
  (tmp_path / 'train/a.png').unlink()
  with pytest.raises(UserError, match='own splits, validation'):
    recognise(str(tmp_path), Options(split='test'))
  assert recognise(str(tmp_path), Options(split='validation'))


def test_reading_needs_no_jax(tmp_path):
  making.tree(tmp_path, {'a.png': picture(), 'b/t.csv': 'path\na.png\n'})
  code = (
      'import sys\n'
      'from m3i_jax.prepare.readers import recognise\n'
      'from m3i_jax.prepare.items import Options\n'
      f'list(recognise({str(tmp_path)!r}, Options()).splits["train"][0])\n'
      'print([m for m in ("jax", "tensorflow_datasets") if m in sys.modules])'
  )
  said = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert said.stdout == '[]\n'


def test_an_open_pipe_or_folder_is_no_picture(tmp_path):
  os.mkfifo(tmp_path / 'a')
  for name in ('a', '.', 'b'):
    with pytest.raises(raw.Unusable):
      raw.read_file(str(tmp_path / name))


def test_labels_are_one_line():
  assert labels.tidy(' a\n b\t') == 'a b'
  assert labels.tidy(3.0) == labels.tidy('3.0') == labels.tidy(3) == '3'
  assert labels.tidy(None) == labels.tidy(float('nan')) == ''
  assert labels.tidy('v1.0') == 'v1.0' and labels.tidy(b'x') == 'x'
  with pytest.raises(raw.Unusable, match='label is no name'):
    labels.tidy(json.loads('{}'))


def test_classes_that_were_found():
  assert labels.found(['b', 'a', ''], '').names == ('a', 'b')
  assert labels.found(['3', '1', '-1'], '').names == ('0', '1', '2', '3')
  assert labels.found(['007', '7'], '').names == ('007', '7')
  assert labels.found([], '').names == ()


def test_too_many_classes(monkeypatch):
  monkeypatch.setattr(labels, 'MOST', 2)
  with pytest.raises(UserError, match='x has more than 2 different labels'):
    labels.found('abc', 'x')


def test_numbers_of_thousands_of_digits_are_no_classes():
  known = labels.Labels(('a', 'b'), numbered=True)
  assert known.index('01') == 1
  for name in ('9' * 5000, '2', '²'):
    with pytest.raises(raw.Unusable, match='unknown label|label is too long'):
      known.index(name)
