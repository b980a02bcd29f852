"""Data sets of TFDS as a source: fields, parts, and what cannot be built."""

import importlib.util
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds

from m3i_jax.data import places
from m3i_jax.data.sources import Fields, open_source
from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Bad, Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making

EMOJI = str(places.EMOJI64)


def test_the_bundled_set_by_its_directory():
  layout = recognise(EMOJI, Options(label='group', records=1000))
  assert layout.kind == 'tfds' and layout.captions
  assert 'Animals & Nature' in layout.classes
  assert 'captions from caption' in layout.told
  parts = layout.splits['vendor']
  assert [(part.key, part.size) for part in parts] == [
      ('000000000', 1000), ('000001000', 288)
  ]  # fmt: skip
  found = list(pickle.loads(pickle.dumps(parts[1])))[-1]
  fields = Fields(label='group', text='caption', id='id')
  wanted = open_source(EMOJI, 'vendor', fields)[1287]
  assert (found.id, found.label, found.captions) == (
      wanted['id'], wanted['label'], wanted['text']
  )  # fmt: skip
  assert found.image[:4] == b'RIFF'  # as stored, a WebP


def test_a_name_in_the_directory_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  (tmp_path / 'mine').symlink_to(EMOJI)
  layout = recognise('tfds:mine:1.0.0', Options(text='keywords,caption'))
  assert sum(part.size for part in layout.splits['vendor']) == 1288
  item = next(iter(layout.splits['vendor'][0]))
  assert len(item.captions) > 1


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'text': 'nothing'}, "has no feature 'nothing': it has "),
        ({'label': 'caption'}, "feature 'caption' of .* is no class label"),
    ],
)
def test_features_that_are_not_there(options, told):
  with pytest.raises(UserError, match=told):
    recognise(EMOJI, Options(**options))


def test_building_needs_tensorflow(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  true = importlib.util.find_spec
  monkeypatch.setattr(
      importlib.util,
      'find_spec',
      lambda name, *rest: None if name == 'tensorflow' else true(name, *rest),
  )
  with pytest.raises(UserError, match='run launch/setup.sh tensorflow, then'):
    recognise('tfds:mnist', Options())


@pytest.mark.parametrize(
    ('name', 'told'),
    [('tfds:no_such_set', 'DatasetNotFoundError'), ('tfds:..', 'cannot build')],
)
def test_a_name_that_tfds_does_not_know(tmp_path, monkeypatch, name, told):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: True)
  with pytest.raises(UserError, match=told) as refused:
    recognise(name, Options())
  assert '\n' not in str(refused.value)


def test_a_manual_directory_that_is_none(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: True)
  with pytest.raises(UserError, match='--manual_dir=/nowhere is no directory'):
    recognise('tfds:mnist', Options(manual_dir='/nowhere'))


class _Built:
  """Stands for TFDS's builder: puts the bundled set where it is told to."""

  def __init__(self, home):
    self._home = home

  def __call__(self, name, data_dir, file_format):
    assert data_dir == str(self._home) and file_format == 'array_record'
    self._name = name
    return self

  def download_and_prepare(self, download_config):
    self.manual_dir = download_config.manual_dir
    (self._home / self._name).symlink_to(EMOJI)


def test_a_name_that_is_not_built_is_built(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda *_: True)
  builder = _Built(tmp_path)
  monkeypatch.setattr(tfds, 'builder', builder)
  layout = recognise('tfds:mine', Options(manual_dir=str(tmp_path)))
  assert 'vendor' in layout.splits
  assert builder.manual_dir == str(tmp_path)


def test_a_record_that_cannot_be_read_is_bad(monkeypatch):
  from m3i_jax.prepare import tfds_names

  class Records:
    def __getitem__(self, i):
      if i == 1:
        raise RuntimeError('damaged\nchunk')
      return {'image': b'x' if i else np.zeros((2, 2, 3))}

  monkeypatch.setattr(tfds_names, '_records', lambda *_: Records())
  part = tfds_names.TfdsPart('/', 'train', 0, 2, 'image')
  assert list(part) == [
      Bad('0', "no picture: 'image' is not encoded"),
      Bad('1', 'record cannot be read: RuntimeError: damaged chunk'),
  ]


def test_a_set_without_the_records_of_a_split(tmp_path):
  making.tree(tmp_path, {'dataset_info.json': '{}'})
  with pytest.raises(UserError, match='cannot read its description'):
    recognise(str(tmp_path), Options())
