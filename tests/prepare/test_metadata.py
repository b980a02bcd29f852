"""Hugging Face's metadata tables beside pictures: none is left out unsaid."""

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture

CSV = 'file_name,text\n0.png,c0\n1.png,c1\n'
JSONL = '{"file_name": "0.png", "text": "j0"}\n'
PICTURES = {
    f'{split}/{i}.png': picture(i) for split in ('train', 'val') for i in (0, 1)
}


def _layout(tmp_path, files, source='', **options):
  making.tree(tmp_path, files)
  return recognise(str(tmp_path / source), Options(**options))


def _captions(layout):
  return {
      split: [item.captions for item in making.items(layout, split)]
      for split in layout.splits
  }


def test_tables_of_two_kinds(tmp_path):
  tables = {'train/metadata.csv': CSV, 'val/metadata.jsonl': JSONL}
  layout = _layout(tmp_path, PICTURES | tables)
  assert _captions(layout) == {
      'train': [('c0',), ('c1',)], 'validation': [('j0',)]
  }  # fmt: skip
  assert layout.told.endswith('; 1 picture that no table names')


def test_pictures_of_a_split_without_a_table(tmp_path):
  told = r'/val has pictures and no table, and .*/train/metadata\.csv names'
  with pytest.raises(UserError, match=told):
    _layout(tmp_path, PICTURES | {'train/metadata.csv': CSV})
  layout = _layout(tmp_path, {}, 'train')
  assert _captions(layout) == {'train': [('c0',), ('c1',)]}
  assert layout.told.endswith("captions from 'text'")


def test_one_table_above_the_folders(tmp_path):
  text = 'file_name,split\ntrain/0.png,train\nval/../val/1.png,val\n'
  layout = _layout(tmp_path, PICTURES | {'metadata.csv': text})
  assert {s: len(making.items(layout, s)) for s in layout.splits} == {
      'train': 1, 'validation': 1
  }  # fmt: skip
  assert layout.told.endswith('; 2 pictures that no table names')


def test_two_tables_of_one_folder_are_not_both_read(tmp_path):
  both = {'metadata.csv': CSV, 'metadata.jsonl': JSONL, '0.png': picture(0)}
  assert _captions(_layout(tmp_path, both)) == {'train': [('j0',)]}
