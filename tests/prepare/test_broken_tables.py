"""Tables with rows that cannot be read, and tables that are refused."""

import codecs
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw
from m3i_jax.prepare.items import Bad, Item, Options
from m3i_jax.prepare.readers import recognise
from m3i_jax.prepare.tables import open_table
from tests.prepare import making
from tests.prepare.making import picture

OWL = picture(3, 'WEBP')


GOOD = 'path,caption\nowl.webp,good\n'


def _layout(tmp_path, name, content, **options):
  files = {'owl.webp': OWL, 'pictures/cat.png': picture(1), name: content}
  making.tree(tmp_path, files)
  return recognise(str(tmp_path / name), Options(**options))


@pytest.mark.parametrize(
    ('row', 'reason'),
    [
        (b'owl.webp\n', 'ragged row: row 2 has 1 columns, its header 2'),
        (b'owl.webp,a,b\n', 'ragged row: row 2 has 3 columns, its header 2'),
        (b'owl.webp,K\xe4se\n', 'encoding of a table: row 2 is not UTF-8'),
        (b'owl.webp,' + b'x' * 2**20 + b'\n', 'line is too long: row 2'),
        (b'owl.webp,' + b'x' * 2**18 + b'\n', 'row of a table: row 2: fi'),
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
  assert found.startswith(reason)


def test_a_quote_that_is_open_at_the_end(tmp_path):
  layout = _layout(tmp_path, 't.csv', GOOD + 'owl.webp,"a\nowl.webp,b')
  captions = [item.captions for item in making.items(layout)]
  assert captions == [('good',), ('b',)]
  assert making.bad(layout) == [
      ('t.csv#2', 'row of a table: row 2: a quote is never closed')
  ]  # fmt: skip


@pytest.mark.parametrize('row', ['owl.webp,{}\n', 'owl.webp,"{}, more"\n'])
@pytest.mark.parametrize('stray', ['owl.webp,"x\n', '"owl.webp,x\n'])
def test_a_stray_quote_loses_one_row(tmp_path, row, stray):
  rows = [row.format(i) for i in range(3000)]
  rows[1500] = stray
  text = 'path,caption\n' + ''.join(rows)
  layout = _layout(tmp_path, 't.csv', text, records=700)
  more = ', more' if 'more' in row else ''
  assert [item.captions for item in making.items(layout)] == [
      (f'{i}{more}',) for i in range(3000) if i != 1500
  ]  # fmt: skip
  ((id_, reason),) = making.bad(layout)
  assert id_ == 't.csv#1501' and reason.startswith('row of a table: row 1501')


def test_a_row_of_many_fields_that_never_ends_takes_bounded_memory(tmp_path):
  text = GOOD + 'a"b,"c\n' * 600_000
  table = open_table(str(making.tree(tmp_path, {'t.csv': text}) / 't.csv'))
  _, (_, row) = itertools.islice(table.rows(), 2)
  assert str(row) == 'row is too long: row 2'


def test_a_last_row_without_its_end(tmp_path):
  layout = _layout(tmp_path, 't.csv', GOOD + 'owl.webp,"last"')
  assert making.items(layout)[1].captions == ('last',)


def test_a_quote_that_is_never_closed_loses_one_row(tmp_path):
  # csv gives up after 131,072 characters.
  text = GOOD + 'owl.webp,"open\n' + 'owl.webp,more\n' * 15_000
  records = making.records(_layout(tmp_path, 't.csv', text))
  assert len(records) == 15_002
  assert [i for i, one in enumerate(records) if isinstance(one, Bad)] == [1]


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
        (r'{"image": "\ud800.png"}', "unsafe path: '\\ud800.png'"),
        ('{"other": 1}', "no picture: 'image' is empty"),
    ],
)
def test_lines_of_json_that_are_bad(tmp_path, line, reason):
  good = '{"image": "owl.webp", "text": "good", "label": "a"}\n'
  layout = _layout(tmp_path, 't.jsonl', f'{good}{line}\n{good}')
  assert [item.captions for item in making.items(layout)] == [('good',)] * 2
  ((id_, found),) = making.bad(layout)
  assert id_.startswith('t.jsonl#2') and found.startswith(reason)


def test_absolute_paths_where_they_are_allowed(tmp_path):
  making.tree(tmp_path, {'out/a.png': OWL})
  text = f'path\n{tmp_path}/out/a.png\n../out/a.png\n'
  with pytest.raises(UserError, match='path leads out of the folder'):
    _layout(tmp_path, 'in/t.csv', text)
  layout = _layout(tmp_path, 'in/t.csv', text, absolute=True)
  assert [item.image for item in making.items(layout)] == [OWL, OWL]


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


def test_tables_of_which_some_are_named_by_a_split(tmp_path):
  making.tree(tmp_path, {'a.csv': 'path\na\n', 'test.csv': 'path\na\n'})
  with pytest.raises(UserError, match=r'by a split \(test\) and .*a\.csv is'):
    recognise(str(tmp_path), Options())


def test_tables_of_a_folder_that_differ(tmp_path):
  making.tree(tmp_path, {'a.csv': 'path,label\na,b\n', 'b.csv': 'path\na\n'})
  with pytest.raises(UserError, match=r"b\.csv has no column 'label', as"):
    recognise(str(tmp_path), Options())


def _damaged_parquet(path, columns, name, **options):
  """Its layout, before the second of three groups of rows is damaged."""
  pq.write_table(pa.table(columns), path, row_group_size=3)
  about = pq.read_metadata(path).row_group(1)
  place = about.column(list(columns).index(name)).data_page_offset
  before = path.read_bytes()
  data = bytearray(before)
  data[place : place + 20] = b'\xff' * 20
  path.write_bytes(data)
  return recognise(str(path), Options(**options))


@pytest.mark.parametrize('records', [2, 100])
def test_a_group_of_parquet_that_is_damaged(tmp_path, records):
  columns = {'image': [picture(i) for i in range(9)]}
  layout = _damaged_parquet(
      tmp_path / 't.parquet', columns, 'image', records=records
  )
  good = making.items(layout)
  assert [item.id for item in good] == [
      f't.parquet#{i}' for i in (1, 2, 3, 7, 8, 9)
  ]  # fmt: skip
  assert [item.image for item in good[3:]] == columns['image'][6:]
  found = making.bad(layout)
  assert [id_ for id_, _ in found] == [f't.parquet#{i}' for i in (4, 5, 6)]
  assert all(r.startswith('Parquet cannot be read: ') for _, r in found)


@pytest.mark.parametrize('name', ['image', 'label', 'split'])
def test_rows_of_a_damaged_group_are_counted_once(tmp_path, name):
  columns = {
      'image': [picture(i) for i in range(9)], 'label': list('abcabcabc'),
      'split': ['train', 'train', 'test'] * 3,
  }  # fmt: skip
  layout = _damaged_parquet(tmp_path / 't.parquet', columns, name, records=2)
  found = {
      split: sorted(record.id for record in making.records(layout, split))
      for split in layout.splits
  }
  test = {3, 9} if name == 'split' else {3, 6, 9}
  assert found == {
      'train': [f't.parquet#{i}' for i in range(1, 10) if i not in test],
      'test': [f't.parquet#{i}' for i in sorted(test)],
  }
  bad = making.bad(layout) + making.bad(layout, 'test')
  assert sorted(id_ for id_, _ in bad) == [f't.parquet#{i}' for i in (4, 5, 6)]
  assert layout.classes == ('a', 'b', 'c')


@pytest.mark.parametrize('name', ['t.parquet', 't.csv', 't.jsonl'])
@pytest.mark.parametrize('what', ['vanishes', 'shrinks', 'is overwritten'])
def test_a_table_that_changes_after_the_first_look(tmp_path, name, what):
  path = tmp_path / name
  making.tree(tmp_path, {'owl.webp': OWL})
  one = {'t.csv': 'owl.webp\n', 't.jsonl': '{"path": "owl.webp"}\n'}.get(name)
  head = 'path\n' if name == 't.csv' else ''
  if one:
    path.write_text(head + one * 9)
  else:
    pq.write_table(pa.table({'path': ['owl.webp'] * 9}), path)
  layout = recognise(str(path), Options(records=4))
  if what == 'vanishes':
    path.unlink()
  elif what == 'is overwritten':
    path.write_bytes(b'\xff' * path.stat().st_size)
  elif one:
    path.write_text(head + one * 5)
  else:
    pq.write_table(pa.table({'path': ['owl.webp'] * 5}), path)
  records = making.records(layout)
  assert len(records) == 9 and len({record.id for record in records}) == 9
  good = 5 if what == 'shrinks' else 0
  assert [isinstance(one, Item) for one in records] == (
      [True] * good + [False] * (9 - good)
  )
  for _, reason in making.bad(layout):
    assert '\n' not in reason and str(tmp_path) not in reason


def test_one_large_value_of_many_rows_of_parquet(tmp_path):
  path = tmp_path / 't.parquet'  # which has it once
  pq.write_table(pa.table({'image': [bytes(2**23)] * 40}), path)
  before = pa.default_memory_pool()
  counted = pa.proxy_memory_pool(before)
  pa.set_memory_pool(counted)
  try:
    (part,) = recognise(str(path), Options()).splits['train']
    assert sum(len(item.image) for item in part) == 40 * 2**23
  finally:
    pa.set_memory_pool(before)
  assert 2**23 < counted.max_memory() < 2**28


def test_parquet_that_unpacks_to_far_more(tmp_path, monkeypatch):
  monkeypatch.setattr(raw, 'PICTURE_BYTES', 2**20)
  path = tmp_path / 't.parquet'
  image = [bytes(2**18 + i) for i in range(8)] + [OWL]
  pq.write_table(
      pa.table({'image': image}), path, row_group_size=8, compression='zstd'
  )
  layout = recognise(str(path), Options())
  assert [item.image for item in making.items(layout)] == [OWL]
  reasons = [reason for _, reason in making.bad(layout)]
  assert reasons == ["too large: 'image' has 2.0 MiB, 1 are allowed"] * 8


def test_about_hugging_face_that_is_nested_deeply(tmp_path):
  about = '{"info": ' + '[' * 100_000
  table = pa.table({'image': [OWL], 'label': ['owl']})
  table = table.replace_schema_metadata({'huggingface': about})
  pq.write_table(table, tmp_path / 't.parquet')
  layout = recognise(str(tmp_path / 't.parquet'), Options())
  assert layout.classes == ('owl',)
