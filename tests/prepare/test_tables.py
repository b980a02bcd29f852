"""Tables: columns, paths and bytes, splits by a column, and broken rows."""

import base64
import codecs
import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import rows
from m3i_jax.prepare.items import Bad, Options
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
      f"table {tmp_path}: rows train 3; pictures from 'FILENAME'; 2 labels "
      "from 'Label'; captions from 'caption'"
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
  true = rows.Parquet.rows
  monkeypatch.setattr(rows.Parquet, 'rows', lambda self, *args, **kw: (
      seen.append((args, kw)), true(self, *args, **kw))[1])  # fmt: skip
  _parquet(tmp_path / 't.parquet', {'image': [CAT], 'label': ['a'], 'z': [1]})
  assert seen[-1][1] == {'columns': ('label',)}


def test_a_folder_of_tables(tmp_path):
  for i, split in enumerate(['train', 'train', 'test']):
    _parquet(tmp_path / f'{split}-{i:05d}-of-00003.parquet', {'image': [CAT]})
  layout = recognise(str(tmp_path), Options())
  assert [item.id for item in making.items(layout)] == [
      'train-00000-of-00003.parquet#1', 'train-00001-of-00003.parquet#1'
  ]  # fmt: skip
  assert len(making.items(layout, 'test')) == 1


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


GOOD = 'path,caption\nowl.webp,good\n'


@pytest.mark.parametrize(
    ('row', 'reason'),
    [
        (b'owl.webp\n', 'ragged row: {} row 2 has 1 columns, its header 2'),
        (b'owl.webp,a,b\n', 'ragged row: {} row 2 has 3 columns, its header 2'),
        (b'owl.webp,K\xe4se\n', 'encoding of a table: {} row 2 is not UTF-8'),
        (b'owl.webp,' + b'x' * 2**20 + b'\n', 'line is too long: {} row 2'),
        (b'owl.webp,' + b'x' * 2**18 + b'\n', 'row of a table: {} row 2: fi'),
        (b',b\n', "no picture: 'path' is empty"),
        (b'none.png,b\n', 'missing file: '),
        (b'pictures,b\n', 'no regular file: '),
        (b'../out.png,b\n', 'path leads out of the folder: ../out.png'),
        (b'/etc/passwd,b\n', 'path leads out of the folder: /etc/passwd'),
        (b'link.png,b\n', 'path leads out of the folder: link.png'),
        (b'http://a.b/c.png,b\n', 'address of the network: http://a.b/c.png'),
        (b'a\x00.png,b\n', "unsafe path: 'a\\x00.png'"),
    ],
)
def test_rows_that_are_bad_and_those_around_them(tmp_path, row, reason):
  (tmp_path / 'link.png').symlink_to('/etc/passwd')
  text = GOOD.encode() + row + b'owl.webp,end\n'
  layout = _layout(tmp_path, 't.csv', text, records=2)
  assert [item.captions for item in making.items(layout)] == [
      ('good',), ('end',)
  ]  # fmt: skip
  ((id_, found),) = making.bad(layout)
  assert id_.startswith('t.csv#2')
  assert found.startswith(reason.format(tmp_path / 't.csv'))


def test_a_quote_that_is_never_closed_takes_bounded_memory(tmp_path):
  text = GOOD + 'owl.webp,"open\n' + 'owl.webp,more\n' * 15_000
  records = making.records(_layout(tmp_path, 't.csv', text))
  assert records[0].captions == ('good',) and len(records) > 5_000
  # csv gives up after 131,072 characters; the row in which it does goes on
  # in its middle.
  found = [one for one in records if isinstance(one, Bad)]
  assert len(found) <= 2 and found[0].reason.startswith('row of a table: ')


@pytest.mark.parametrize(
    ('line', 'reason'),
    [
        ('{', 'JSON cannot be read: '),
        ('[]', 'JSON is no object: '),
        ('[' * 100_000, 'JSON cannot be read: '),
        ('{"image": 3}', "no picture: 'image' is of type int"),
        ('{"image": ["owl.webp"]}', "no picture: 'image' is of type list"),
        ('{"image": "owl.webp", "text": {}}', 'caption is no text: '),
        ('{"image": "owl.webp", "label": [1, 2]}', 'label is no name: '),
        ('{"other": 1}', "no picture: 'image' is empty"),
    ],
)
def test_lines_of_json_that_are_bad(tmp_path, line, reason):
  good = _jsonl({'image': 'owl.webp', 'text': 'good', 'label': 'a'})
  layout = _layout(tmp_path, 't.jsonl', f'{good}{line}\n{good}')
  assert [item.captions for item in making.items(layout)] == [('good',)] * 2
  ((id_, found),) = making.bad(layout)
  assert id_.startswith('t.jsonl#2') and found.startswith(reason)


def test_absolute_paths_where_they_are_allowed(tmp_path):
  making.tree(tmp_path, {'out/a.png': CAT})
  text = f'path\n{tmp_path}/out/a.png\n../out/a.png\n'
  with pytest.raises(UserError, match='path leads out of the folder'):
    _layout(tmp_path, 'in/t.csv', text)
  layout = _layout(tmp_path, 'in/t.csv', text, absolute=True)
  assert [item.image for item in making.items(layout)] == [CAT, CAT]


@pytest.mark.parametrize(
    ('name', 'content', 'told'),
    [
        ('t.csv', 'a,b\n1,2\n', 'no column of pictures: it has a, b; wanted'),
        ('t.csv', 'url,caption\nhttp://x/y.jpg,b\n', 'img2dataset .*its tars'),
        ('t.csv', 'image,b\nhttp://x/y.jpg,b\n', "'image' has addresses"),
        ('t.csv', 'path,b\n' + 'no.png,1\n' * 2000,
         r'none of the first 1,000 rows .*missing file: .*/no\.png'),
        ('t.csv', '', 'its first row does not name the columns'),
        ('t.csv', 'path,caption\n', 'has no rows'),
        ('t.csv', GOOD.encode('utf-16'), 'is UTF-16: save it as UTF-8'),
        ('t.csv', b'path,K\xe4se\na,b\n', 'its first row is not UTF-8'),
        ('t.csv', b'\x1f\x8b\x08', 'is compressed: unpack it with gunzip'),
        ('t.jsonl', codecs.BOM_UTF16_LE + b'{\0', 'is UTF-16'),
        ('t.jsonl', '', 'has no row that can be read: it is empty'),
        ('t.jsonl', '<html>\n', 'has no row .*JSON cannot be read'),
        ('t.jsonl', '{"a": 1}\n', 'no column of pictures: it has a; wanted'),
        ('t.parquet', b'PAR1 and no more', 'is no whole Parquet file'),
        ('t.csv', 'path,split\n' + ''.join(
            f'owl.webp,s{i}\n' for i in range(30)), 'more than 20 splits'),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tmp_path, name, content, told):
  with pytest.raises(UserError, match=told) as refused:
    _layout(tmp_path, name, content)
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('flag', ['image', 'label', 'text', 'id'])
def test_a_column_that_was_asked_for_and_is_not_there(tmp_path, flag):
  told = rf"no column 'x' \(--{flag}\): it has path, caption"
  with pytest.raises(UserError, match=told):
    _layout(tmp_path, 't.csv', GOOD, **{flag: 'x'})


def test_tables_of_a_folder_that_differ(tmp_path):
  making.tree(tmp_path, {'a.csv': 'path,label\na,b\n', 'b.csv': 'path\na\n'})
  with pytest.raises(UserError, match=r"b\.csv has no column 'label', as"):
    recognise(str(tmp_path), Options())


@pytest.mark.parametrize('place', ['page', 'end'])
def test_a_parquet_that_is_damaged_later(tmp_path, place):
  path = tmp_path / 't.parquet'
  layout = _parquet(path, {'image': [picture(i) for i in range(9)]}, groups=3)
  page = pq.read_metadata(path).row_group(1).column(0).data_page_offset
  data = bytearray(path.read_bytes())
  start = page if place == 'page' else len(data) - 20
  data[start : start + 20] = b'\xff' * 20
  path.write_bytes(data)
  (part,) = layout.splits['train']
  *before, last = part
  assert [item.id for item in before] == [
      f't.parquet#{i}' for i in range(1, 4 if place == 'page' else 1)
  ]
  assert last.reason.startswith('Parquet cannot be read: ')
