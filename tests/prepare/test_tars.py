"""Tars of webdataset: samples, their fields, labels and splits."""

import json
import pickle
import tarfile

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import brief, picture

CAT, DOG, OWL = picture(1), picture(2, 'JPEG'), picture(3, 'WEBP')


def _layout(tmp_path, members, kind=tarfile.GNU_FORMAT, **options):
  making.tree(tmp_path, {'x.tar': making.tar(members, kind=kind)})
  return recognise(str(tmp_path / 'x.tar'), Options(**options))


def test_members_with_one_name_are_a_sample(tmp_path):
  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'a.txt': b'a dog\nrunning\n',
      'b.txt': b'a cat', 'b.PNG': CAT, 'b.json': b'{"caption": "unused"}',
      'deep/c.webp': OWL,
  })  # fmt: skip
  assert layout.kind == 'webdataset' and layout.captions
  items = making.items(layout)
  assert brief(items) == [
      ('x/a', -1, ('a dog', 'running')),
      ('x/b', -1, ('a cat',)),
      ('x/deep/c', -1, ()),
  ]
  assert [item.image for item in items] == [DOG, CAT, OWL]
  assert layout.told == (
      f'webdataset {tmp_path}: tars train 1; no labels; captions from txt'
  )


@pytest.mark.parametrize(
    'kind', [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]
)
def test_long_and_foreign_names(tmp_path, kind):
  name = 'd' * 90 + '/' + 'f' * 60
  layout = _layout(tmp_path, {
      f'./{name}.jpg': DOG, './猫.png': CAT, './猫.txt': '猫'.encode()
  }, kind=kind)  # fmt: skip
  assert brief(making.items(layout)) == [
      (f'x/{name}', -1, ()), ('x/猫', -1, ('猫',))
  ]  # fmt: skip


@pytest.mark.parametrize('suffix', ['tar.gz', 'tgz', 'tar'])
def test_compressed_tars(tmp_path, suffix):
  data = making.tar({'a.jpg': DOG, 'a.txt': b'a dog'}, 'w:gz')
  making.tree(tmp_path, {f'x.{suffix}': data})
  layout = recognise(str(tmp_path / f'x.{suffix}'), Options())
  assert brief(making.items(layout)) == [('x/a', -1, ('a dog',))]


def test_numbers_are_classes(tmp_path):
  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'a.cls': b'2\n', 'b.jpg': CAT, 'b.cls': b'0',
      'c.jpg': OWL, 'c.cls': b'-1', 'd.jpg': OWL, 'e.jpg': OWL, 'e.cls': b'?',
  })  # fmt: skip
  assert layout.classes == ('0', '1', '2')
  assert [(i.id, i.label) for i in making.items(layout)] == [
      ('x/a', 2), ('x/b', 0), ('x/c', -1), ('x/d', -1)
  ]  # fmt: skip
  assert making.bad(layout) == [('x/e', "unknown label: '?'")]
  assert layout.splits['train'][0].size == 5


def test_names_of_the_numbers_are_in_a_file(tmp_path):
  making.tree(tmp_path, {'names': 'cat\ndog\n'})
  layout = _layout(
      tmp_path,
      {'a.jpg': DOG, 'a.cls': b'1', 'b.jpg': CAT, 'b.cls': b'cat',
       'c.jpg': CAT, 'c.cls': b'2'},
      classes=str(tmp_path / 'names'),
  )  # fmt: skip
  assert layout.classes == ('cat', 'dog')
  assert [(i.id, i.label) for i in making.items(layout)] == [
      ('x/a', 1), ('x/b', 0)
  ]  # fmt: skip
  assert making.bad(layout) == [('x/c', "unknown label: '2'")]


def test_captions_and_labels_of_json(tmp_path):
  def about(**values):
    return json.dumps(values).encode()

  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'a.json': about(caption='a dog', label='dog', url='u'),
      'b.jpg': CAT, 'b.json': about(caption=['a cat', ' '], label='cat'),
      'c.jpg': OWL, 'c.json': about(caption=None),
  })  # fmt: skip
  assert layout.classes == ('cat', 'dog')
  assert brief(making.items(layout)) == [
      ('x/a', 1, ('a dog',)), ('x/b', 0, ('a cat',)), ('x/c', -1, ())
  ]  # fmt: skip
  layout = recognise(
      str(tmp_path / 'x.tar'), Options(text='url,caption', label='url')
  )
  assert layout.classes == ('u',)
  assert brief(making.items(layout))[0] == ('x/a', 0, ('u', 'a dog'))


def test_a_member_can_be_named(tmp_path):
  layout = _layout(
      tmp_path,
      {'a.jpg': DOG, 'a.mask.png': CAT, 'a.alt': b'other', 'a.txt': b'usual'},
      image='mask.png',
      text='alt',
  )
  (item,) = making.items(layout)
  assert item.image == CAT and item.captions == ('other',)


def test_a_member_without_extension_is_no_picture(tmp_path):
  layout = _layout(tmp_path, {'000': b'text', '000.jpg': DOG})
  assert [item.image for item in making.items(layout)] == [DOG]
  assert layout.told.endswith('members left alone: without extension')


def test_dots_in_paths(tmp_path):
  layout = _layout(tmp_path, {
      'a/./b.jpg': DOG, 'a/b.txt': b'a dog', '././c/.//./d.png': CAT,
      './e.jpg': OWL, 'f/.hidden/g.jpg': OWL,
  })  # fmt: skip
  assert brief(making.items(layout)) == [
      ('x/a/b', -1, ('a dog',)), ('x/c/d', -1, ()), ('x/e', -1, ())
  ]  # fmt: skip
  assert not making.bad(layout)


def test_a_tar_that_vanishes(tmp_path):
  layout = _layout(tmp_path, {'a.jpg': DOG})
  (tmp_path / 'x.tar').unlink()
  assert making.bad(layout) == [('x', 'tar cannot be opened: no such file')]


def test_tars_of_a_folder_are_parts_in_order(tmp_path):
  making.tree(tmp_path, {
      '00001.tar': making.tar({'b.jpg': CAT, 'b.txt': b'b'}),
      '00000.tar': making.tar({'a.jpg': DOG, 'a.txt': b'a'}),
      '00000_stats.json': '{"successes": 1}', '00000.parquet': b'not read',
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert [(p.key, p.size) for p in layout.splits['train']] == [
      ('00000', 1), ('00001', 0)
  ]  # fmt: skip
  assert [item.id for item in making.items(layout)] == ['00000/a', '00001/b']
  parts = pickle.loads(pickle.dumps(layout.splits['train']))
  assert [list(p) for p in parts] == [list(p) for p in layout.splits['train']]


def test_splits_by_the_names_of_tars(tmp_path):
  one = making.tar({'a.jpg': DOG})
  making.tree(tmp_path, {'in-train-000.tar': one, 'in-val-000.tar': one})
  layout = recognise(str(tmp_path), Options())
  assert list(layout.splits) == ['train', 'validation']
  making.tree(tmp_path, {'in-extra-000.tar': one})
  with pytest.raises(UserError, match='in-extra-000.tar is not'):
    recognise(str(tmp_path), Options())


def test_a_range_of_tars(tmp_path):
  making.tree(tmp_path, {
      f'x-{i:03d}.tar': making.tar({f'{i}.jpg': DOG}) for i in range(3)
  })  # fmt: skip
  layout = recognise(f'{tmp_path}/x-{{001..002}}.tar', Options())
  assert [i.id for i in making.items(layout)] == ['x-001/1', 'x-002/2']
  with pytest.raises(UserError, match=r'2 of 4 tars .* first is .*x-003\.tar'):
    recognise(f'{tmp_path}/x-{{001..004}}.tar', Options())
  with pytest.raises(UserError, match='is empty or too long'):
    recognise(f'{tmp_path}/x-{{4..1}}.tar', Options())
