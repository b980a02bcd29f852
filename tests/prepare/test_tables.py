"""Tables: columns, paths and bytes, splits by a column, parts."""

import base64
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import parquet
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import brief, picture

CAT, DOG, OWL = picture(1), picture(2, 'JPEG'), picture(3, 'WEBP')
FILES = {'pictures/cat.png': CAT, 'pictures/dog.jpg': DOG, 'owl.webp': OWL}


def _layout(tmp_path, name, content, **options):
  making.tree(tmp_path, FILES | {name: content})
  return recognise(str(tmp_path / name), Options(**options))


def _jsonl(*values):
  return ''.join(json.dumps(one, ensure_ascii=False) + '\n' for one in values)


def _parquet(path, columns_, groups=1000, features=None):
  table = pa.table(columns_)
  if features:
    about = json.dumps({'info': {'features': features}})
    table = table.replace_schema_metadata({'huggingface': about})
  pq.write_table(table, path, row_group_size=groups)
  return recognise(str(path), Options())


@pytest.mark.parametrize('start', ['', '\ufeff'])
@pytest.mark.parametrize(
    ('name', 'between', 'end'),
    [('t.csv', ',', '\n'), ('t.tsv', '\t', '\r\n'), ('t.csv', ';', '\n')],
)
def test_columns_by_their_usual_names(tmp_path, start, name, between, end):
  quoted = 'a "good" dog,\nin; a\tpark'
  lines = [
      ['Label', 'FILENAME', 'note', 'caption'],
      ['dog', 'pictures/dog.jpg', 'x', '"a ""good"" dog,\nin; a\tpark"'],
      ['cat', './pictures/cat.png', 'y', ''],
      ['', 'owl.webp', 'z', 'an öwl'],
  ]
  text = start + end.join(between.join(line) for line in lines) + end
  layout = _layout(tmp_path, name, text)
  assert layout.kind == 'table' and layout.captions
  assert layout.classes == ('cat', 'dog')
  items = making.items(layout)
  assert brief(items) == [
      (f'{name}#1:pictures/dog.jpg', 1, (quoted,)),
      (f'{name}#2:./pictures/cat.png', 0, ()),
      (f'{name}#3:owl.webp', -1, ('an öwl',)),
  ]
  assert [item.image for item in items] == [DOG, CAT, OWL]
  assert layout.told == (
      f"table {tmp_path}/{name}: rows train 3; pictures from 'FILENAME'; "
      "2 labels from 'Label'; captions from 'caption'"
  )


def test_columns_that_are_named(tmp_path):
  layout = _layout(
      tmp_path,
      't.csv',
      'a,b,c,d,image\n7,owl.webp,one,two,nothing.png\n',
      image='b',
      id='a',
      text='d,c',
  )
  assert brief(making.items(layout)) == [('7', -1, ('two', 'one'))]


def test_numbers_are_classes(tmp_path):
  text = 'path,class\nowl.webp,2\nowl.webp,0.0\nowl.webp,-1\n'
  layout = _layout(tmp_path, 't.csv', text)
  assert layout.classes == ('0', '1', '2')
  assert [item.label for item in making.items(layout)] == [2, 0, -1]


def test_sparse_numbers_are_names(tmp_path):
  text = 'path,class\nowl.webp,43\nowl.webp,900000\nowl.webp,7\n'
  layout = _layout(tmp_path, 't.csv', text)
  assert layout.classes == ('7', '43', '900000')
  assert [item.label for item in making.items(layout)] == [1, 2, 0]


def test_a_column_makes_splits_in_parts_of_the_asked_size(tmp_path):
  names = ['train', 'val', 'train', '', 'TEST', 'train', 'val', 'train']
  text = 'path,split\n' + ''.join(f'owl.webp,{name}\n' for name in names)
  layout = _layout(tmp_path, 't.csv', text, records=2)
  numbers = {
      split: [[item.id for item in part] for part in parts]
      for split, parts in layout.splits.items()
  }
  assert numbers == {
      'train': [
          ['t.csv#1:owl.webp', 't.csv#3:owl.webp'],
          ['t.csv#4:owl.webp', 't.csv#6:owl.webp'],
          ['t.csv#8:owl.webp'],
      ],
      'validation': [['t.csv#2:owl.webp', 't.csv#7:owl.webp']],
      'test': [['t.csv#5:owl.webp']],
  }
  keys = [part.key for part in layout.splits['train']]
  assert keys == ['t.csv#1', 't.csv#4', 't.csv#8']
  parts = pickle.loads(pickle.dumps(layout.splits['train']))
  assert [list(p) for p in parts] == [list(p) for p in layout.splits['train']]


def test_parts_begin_anywhere_also_within_quotes_and_blank_lines(tmp_path):
  text = 'path,caption\n' + ''.join(
      f'owl.webp,"line {i}\nof, it"\r\n\n' for i in range(9)
  )
  whole = making.records(_layout(tmp_path, 't.csv', text))
  parts = _layout(tmp_path, 't.csv', text, records=1)
  assert len(parts.splits['train']) == 9 and making.records(parts) == whole
  assert [item.captions[0][:6] for item in whole] == [
      f'line {i}' for i in range(9)
  ]


def test_jsonl_with_paths_base64_and_several_captions(tmp_path):
  encoded = base64.b64encode(DOG).decode()
  layout = _layout(tmp_path, 't.jsonl', _jsonl(
      {'image': 'owl.webp', 'captions': ['an owl', 'a bird'], 'label': 3},
      {'image': encoded, 'captions': 'eine Dogge, süß'},
      {'image': f'data:image/jpeg;base64,{encoded}', 'captions': None},
      {'image': {'bytes': encoded, 'path': 'd.jpg'}, 'captions': []},
      {'image': {'path': 'pictures/cat.png'}},
  ) + '\n')  # fmt: skip
  items = making.items(layout)
  assert brief(items) == [
      ('t.jsonl#1:owl.webp', 3, ('an owl', 'a bird')),
      ('t.jsonl#2', -1, ('eine Dogge, süß',)),
      ('t.jsonl#3', -1, ()),
      ('t.jsonl#4:d.jpg', -1, ()),
      ('t.jsonl#5:pictures/cat.png', -1, ()),
  ]
  assert [item.image for item in items] == [OWL, DOG, DOG, DOG, CAT]


def test_half_characters_of_json_are_replaced(tmp_path):
  half = r'{"image": "owl.webp", "text": "\ud83d", "label": "\ud83d"}'
  layout = _layout(tmp_path, 't.jsonl', half)
  assert layout.classes == ('?',)
  assert making.items(layout)[0].captions == ('?',)


def test_a_path_that_begins_as_base64_does_is_a_path(tmp_path):
  making.tree(tmp_path, {'in/9j/4AAQ': DOG})
  layout = _layout(tmp_path, 'in/t.jsonl', _jsonl({'image': '9j/4AAQ'}))
  assert making.items(layout)[0].image == DOG


def test_parquet_with_bytes(tmp_path):
  layout = _parquet(tmp_path / 't.parquet', {
      'image': [CAT, None, OWL], 'label': ['cat', 'dog', None],
      'caption': [['a cat', 'it'], [], None],
  })  # fmt: skip
  assert layout.classes == ('cat', 'dog')
  assert brief(making.items(layout)) == [
      ('t.parquet#1', 0, ('a cat', 'it')), ('t.parquet#3', -1, ())
  ]  # fmt: skip
  assert making.bad(layout) == [
      ('t.parquet#2', "no picture: 'image' is empty")
  ]  # fmt: skip


def test_parquet_of_hugging_face(tmp_path):
  making.tree(tmp_path, FILES)
  layout = _parquet(
      tmp_path / 't.parquet',
      {
          'image': [
              {'bytes': DOG, 'path': 'd.jpg'},
              {'bytes': None, 'path': 'owl.webp'},
          ],
          'label': [1, 0],
      },
      features={
          'image': {'_type': 'Image'},
          'label': {'names': ['owl', 'dog', 'emu'], '_type': 'ClassLabel'},
      },
  )
  assert layout.classes == ('owl', 'dog', 'emu')
  items = making.items(layout)
  assert brief(items) == [
      ('t.parquet#1:d.jpg', 1, ()), ('t.parquet#2:owl.webp', 0, ())
  ]  # fmt: skip
  assert [item.image for item in items] == [DOG, OWL]


@pytest.mark.parametrize('records', [1, 4, 7, 100])
def test_parquet_parts_cross_its_groups_of_rows(tmp_path, records):
  path = tmp_path / 't.parquet'
  images = [picture(i) for i in range(23)]
  _parquet(path, {'image': images}, groups=5)
  layout = recognise(str(path), Options(records=records))
  assert len(layout.splits['train']) == -(-23 // records)
  assert [item.image for item in making.items(layout)] == images


def test_only_the_needed_columns_of_parquet_are_read(tmp_path, monkeypatch):
  seen = []
  true = parquet.Parquet.rows
  monkeypatch.setattr(parquet.Parquet, 'rows', lambda self, *args, **kw: (
      seen.append((args, kw)), true(self, *args, **kw))[1])  # fmt: skip
  _parquet(tmp_path / 't.parquet', {'image': [CAT], 'label': ['a'], 'z': [1]})
  assert seen[-1][1] == {'columns': ('label',)}


def test_a_table_that_is_named_by_its_split(tmp_path):
  layout = _layout(tmp_path, 'my-val.csv', 'path\nowl.webp\n')
  assert list(layout.splits) == ['validation']


def test_a_split_that_was_asked_for(tmp_path):
  content = 'path\nowl.webp\n'
  layout = _layout(tmp_path, 'test.csv', content, split='validation')
  assert list(layout.splits) == ['validation']
  content = f'path\n{tmp_path}/owl.webp\n'
  files = {'owl.csv': content, 'test.csv': content}
  root = making.tree(tmp_path / 'in', files)
  layout = recognise(str(root), Options(split='test', absolute=True))
  assert list(layout.splits) == ['test']
  making.tree(root, {'train.csv': content})
  for asked in ('test', 'validation'):
    told = f'--split={asked}, but files are named by test, train: '
    with pytest.raises(UserError, match=told):
      recognise(str(root), Options(split=asked))


@pytest.mark.parametrize(
    'kind', ['AVIF', 'JPEG2000', 'PPM', 'TIFF', 'BMP', 'GIF', 'WEBP']
)
def test_every_kind_of_picture_as_base64(tmp_path, kind):
  data = picture(3, kind, side=16)
  text = base64.encodebytes(data).decode()  # in lines
  layout = _layout(tmp_path, 't.jsonl', _jsonl({'image': text}))
  (item,) = making.items(layout)
  assert item.image == data and item.id == 't.jsonl#1'


def test_what_is_nearly_base64_is_soon_known_to_be_none(tmp_path):
  value = 'A' + ' ' * 2**20 + '!'  # going back at each space: an hour
  making.tree(tmp_path, {'t.jsonl': _jsonl({'image': value})})
  with pytest.raises(UserError, match='missing file: |File name too long'):
    recognise(str(tmp_path / 't.jsonl'), Options())


def test_a_folder_of_tables(tmp_path):
  for i, split in enumerate(['train', 'train', 'test']):
    _parquet(tmp_path / f'{split}-{i:05d}-of-00003.parquet', {'image': [CAT]})
  layout = recognise(str(tmp_path), Options())
  assert [item.id for item in making.items(layout)] == [
      'train-00000-of-00003.parquet#1', 'train-00001-of-00003.parquet#1'
  ]  # fmt: skip
  assert len(making.items(layout, 'test')) == 1


def test_metadata_comes_before_other_tables(tmp_path):
  making.tree(tmp_path, {
      'a.png': CAT, 'metadata.csv': 'file_name,text\na.png,a cat\n',
      'other.jsonl': '{"x": 1}\n',
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert [(i.id, i.captions) for i in making.items(layout, 'train')] == [
      ('metadata.csv#1:a.png', ('a cat',))
  ]


def test_metadata_files_of_hugging_face(tmp_path):
  making.tree(tmp_path, {
      'train/a.png': CAT, 'train/metadata.csv': 'file_name,text\na.png,a cat\n',
      'test/a.png': DOG, 'test/metadata.csv': 'file_name,text\na.png,a dog\n',
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert brief(making.items(layout)) == [
      ('train/metadata.csv#1:a.png', -1, ('a cat',))
  ]  # fmt: skip
  (item,) = making.items(layout, 'test')
  assert item.image == DOG and item.captions == ('a dog',)
