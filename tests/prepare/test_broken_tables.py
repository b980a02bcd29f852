"""Tables with rows that cannot be read, and tables that are refused."""

import codecs

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Bad, Options
from m3i_jax.prepare.readers import recognise
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
  assert [item.captions for item in making.items(layout)] == [('good',)]
  assert making.bad(layout) == [
      ('t.csv#2', 'row of a table: row 2: a quote is never closed')
  ]  # fmt: skip


def test_a_last_row_without_its_end(tmp_path):
  layout = _layout(tmp_path, 't.csv', GOOD + 'owl.webp,"last"')
  assert making.items(layout)[1].captions == ('last',)


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


@pytest.mark.parametrize('place', ['page', 'end'])
def test_a_parquet_that_is_damaged_later(tmp_path, place):
  path = tmp_path / 't.parquet'
  table = pa.table({'image': [picture(i) for i in range(9)]})
  pq.write_table(table, path, row_group_size=3)
  layout = recognise(str(path), Options())
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
