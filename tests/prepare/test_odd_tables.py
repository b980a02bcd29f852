"""Tables as other programs write them: understood, or refused by name."""


import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import cli
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture

OWL = picture(3, 'WEBP')


def _layout(tmp_path, name, content, **options):
  making.tree(tmp_path, {'owl.webp': OWL, name: content})
  return recognise(str(tmp_path / name), Options(**options))


def test_absolute_paths_into_the_own_folder(tmp_path):
  text = f'path\n{tmp_path}/owl.webp\n{tmp_path}x/owl.webp\n'
  layout = _layout(tmp_path, 't.csv', text)
  assert [item.image for item in making.items(layout)] == [OWL]
  ((_, reason),) = making.bad(layout)
  assert reason.startswith(f'path leads out of the folder: {tmp_path}x/')


def test_the_line_that_excel_puts_first(tmp_path):
  text = 'sep=;\r\npath;caption\r\nowl.webp;a, b,, c\r\n'
  (item,) = making.items(_layout(tmp_path, 't.csv', text))
  assert (item.image, item.captions) == (OWL, ('a, b,, c',))


@pytest.mark.parametrize(
    ('label', 'reason'),
    [
        ('Infinity', 'label is no name: an infinite number'),
        ('-1e999', 'label is no name: an infinite number'),
        ('"' + '7' * 5000 + '"', 'label is too long: 5,000 characters'),
    ],
)
def test_labels_that_are_none(tmp_path, label, reason):
  good = '{"path": "owl.webp", "label": "owl"}\n'
  text = good + good.replace('"owl"', label)
  layout = _layout(tmp_path, 't.jsonl', text)
  assert layout.classes == ('owl',)
  assert [item.label for item in making.items(layout)] == [0]
  assert [why for _, why in making.bad(layout)] == [reason]


def test_classes_with_a_line_that_is_too_long(tmp_path):
  making.tree(tmp_path, {'classes.txt': 'a\n' + 'b' * 5000})
  with pytest.raises(UserError, match=r'--classes=.*: label is too long'):
    _layout(tmp_path, 't.csv', 'path,label\nowl.webp,a\n',
            classes=f'{tmp_path}/classes.txt')  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'content', 'told'),
    [
        ('t.csv', 'path,label,label\nowl.webp,a,b\n', "column 'label': rename"),
        ('t.csv', 'path,b\rowl.webp,a\r', 'has CR alone as line ends'),
        ('t.jsonl', '[{"path": "owl.webp"}]', 'is a JSON array: one object'),
        ('t.jsonl', '\ufeff[\n{"path": "owl.webp"}\n]', 'is a JSON array'),
        ('t.csv', 'path,split\nowl.webp,train\nowl.webp,a-b\n',
         r"a split cannot be named 'a-b', as at t\.csv#2: use letters"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(tmp_path, name, content, told):
  making.tree(tmp_path, {'owl.webp': OWL, name: content})
  with pytest.raises(UserError, match=told):
    cli.recognise(str(tmp_path / name), Options())


def test_columns_of_one_name_that_nobody_reads(tmp_path):
  layout = _layout(tmp_path, 't.csv', 'path,x,x,,\nowl.webp,1,2,,\n')
  assert [item.image for item in making.items(layout)] == [OWL]
  assert layout.told.startswith(f'table {tmp_path}/t.csv: rows train 1; ')
