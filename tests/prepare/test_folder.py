"""Folders of pictures: splits, labels, captions, and what is left out."""

import codecs
import os
import pickle

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import brief, picture

CAT, DOG, OWL = picture(1), picture(2, 'JPEG'), picture(3, 'WEBP')


def test_sub_folders_are_labels(tmp_path):
  making.tree(tmp_path, {
      'dog/b.JPG': DOG, 'cat/a.png': CAT, 'bird/night/o.webp': OWL, 'x.png': CAT
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert layout.kind == 'folder' and layout.classes == (
      'bird/night', 'cat', 'dog'
  )  # fmt: skip
  assert not layout.captions
  items = making.items(layout)
  assert brief(items) == [
      ('bird/night/o.webp', 0, ()),
      ('cat/a.png', 1, ()),
      ('dog/b.JPG', 2, ()),
      ('x.png', -1, ()),
  ]
  assert [item.image for item in items] == [OWL, CAT, DOG, CAT]
  assert layout.told == (
      f'folder {tmp_path}: pictures train 4; 3 labels; no files of captions'
  )


def test_splits_share_their_classes(tmp_path):
  making.tree(tmp_path, {
      'Training/cat/1.png': CAT, 'Training/dog/1.png': DOG,
      'val/dog/2.png': DOG, 'test/3.png': OWL,
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert list(layout.splits) == ['train', 'validation', 'test']
  assert layout.classes == ('cat', 'dog')
  assert brief(making.items(layout, 'train')) == [
      ('cat/1.png', 0, ()), ('dog/1.png', 1, ())
  ]  # fmt: skip
  assert brief(making.items(layout, 'validation')) == [('dog/2.png', 1, ())]
  assert brief(making.items(layout, 'test')) == [('3.png', -1, ())]


def test_a_flat_folder_has_no_labels_and_takes_the_named_split(tmp_path):
  making.tree(tmp_path, {'a.png': CAT, 'b.png': DOG})
  layout = recognise(str(tmp_path), Options(split='test'))
  assert layout.classes == () and list(layout.splits) == ['test']
  assert brief(making.items(layout, 'test')) == [
      ('a.png', -1, ()), ('b.png', -1, ())
  ]  # fmt: skip


def test_train_among_other_vehicles_is_a_label(tmp_path):
  making.tree(tmp_path, {'car/1.png': CAT, 'train/1.png': DOG})
  layout = recognise(str(tmp_path), Options())
  assert layout.classes == ('car', 'train')
  making.tree(tmp_path, {'more/train/1.png': CAT, 'more/training/2.png': DOG})
  making.tree(tmp_path, {'more/test pilot/1.png': CAT})
  assert len(recognise(str(tmp_path), Options()).classes) == 5


@pytest.mark.parametrize(
    ('text', 'captions'),
    [
        (b'a cat\n\n  on a mat  \r\n', ('a cat', 'on a mat')),
        (codecs.BOM_UTF8 + 'eine Käse'.encode(), ('eine Käse',)),
        ('猫\n犬'.encode('utf-16'), ('猫', '犬')),
        (codecs.BOM_UTF16_BE + '猫'.encode('utf-16-be'), ('猫',)),
        (b'', ()),
        (b' \n', ()),
    ],
)
def test_captions_stand_beside_their_picture(tmp_path, text, captions):
  making.tree(tmp_path, {'a.png': CAT, 'a.txt': text, 'b.png': DOG})
  layout = recognise(str(tmp_path), Options())
  assert layout.captions and '1 file of captions' in layout.told
  assert brief(making.items(layout)) == [
      ('a.png', -1, captions), ('b.png', -1, ())
  ]  # fmt: skip


def test_a_caption_in_another_encoding_is_bad(tmp_path):
  making.tree(tmp_path, {'a.png': CAT, 'a.txt': 'Käse'.encode('latin-1')})
  layout = recognise(str(tmp_path), Options())
  assert making.records(layout) == making.records(layout)
  assert making.bad(layout) == [(
      'a.png',
      'encoding of a text: a.txt is neither UTF-8 nor UTF-16 with a byte '
      'order mark',
  )]  # fmt: skip


def test_a_caption_of_megabytes_is_bad(tmp_path):
  making.tree(tmp_path, {'a.png': CAT, 'a.txt': b'x' * (2**20 + 1)})
  ((_, reason),) = making.bad(recognise(str(tmp_path), Options()))
  assert reason.startswith('too large: ')


def test_hidden_files_and_texts_without_a_picture_are_left_out(tmp_path):
  making.tree(tmp_path, {
      'cat/a.png': CAT, 'cat/._a.png': b'?', '.cache/b.png': CAT,
      '__MACOSX/cat/a.png': CAT, 'Thumbs.db': b'?', '.DS_Store': b'?',
      'README.txt': 'about', 'cat/notes.md': 'more',
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert brief(making.records(layout)) == [('cat/a.png', 0, ())]
  # What is no system's own is told.
  assert layout.told.endswith(
      "1 label ('cat' alone); no files of captions; files left alone: "
      'cat/notes.md, README.txt'
  )


def test_files_beside_pictures_are_told(tmp_path):
  making.tree(tmp_path, {
      'a.png': CAT, 'a.txt': 'a cat', 'b.txt': '', 'c.txt': '', 'x': '',
      **{f'{i}.json': '' for i in range(1000)},
      **{f'f.{i}x': '' for i in range(3)},
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert layout.told.endswith(
      'no labels; 1 file of captions; files left alone: x, f.0x, f.1x, f.2x, '
      '1,000 .json, ...'
  )


def test_links_that_lead_out_are_left_out_and_counted(tmp_path):
  outside = making.tree(tmp_path / 'outside', {'secret.png': OWL})
  root = making.tree(tmp_path / 'in', {'cat/a.png': CAT})
  (root / 'cat/b.png').symlink_to(root / 'cat/a.png')
  (root / 'cat/c.png').symlink_to(outside / 'secret.png')
  (root / 'cat/d.png').symlink_to(root / 'nothing.png')
  (root / 'dog').symlink_to(outside)
  (root / 'cat/loop').symlink_to(root)
  layout = recognise(str(root), Options())
  assert brief(making.items(layout)) == [
      ('cat/a.png', 0, ()), ('cat/b.png', 0, ())
  ]  # fmt: skip
  assert layout.told.endswith('; 4 links left out (--absolute follows them)')


def test_links_are_followed_where_that_is_allowed_but_no_loops(tmp_path):
  making.tree(tmp_path / 'out', {'cat/a.png': CAT, 'b.png': DOG})
  root = making.tree(tmp_path / 'in', {'owl/c.png': OWL})
  (root / 'cat').symlink_to(tmp_path / 'out/cat')
  (root / 'owl/b.png').symlink_to(tmp_path / 'out/b.png')
  (root / 'owl/loop').symlink_to(root)
  (tmp_path / 'out/cat/back').symlink_to(root / 'owl')
  (tmp_path / 'out/cat/none.png').symlink_to(root / 'nothing')
  layout = recognise(str(root), Options(absolute=True))
  assert [item.id for item in making.items(layout)] == [
      'cat/a.png', 'cat/back/b.png', 'cat/back/c.png', 'owl/b.png', 'owl/c.png'
  ]  # fmt: skip
  assert '; 3 links left out' in layout.told


def test_a_link_in_the_place_of_a_split_is_refused(tmp_path):
  making.tree(tmp_path, {'out/a.png': CAT, 'in/val/b.png': DOG})
  (tmp_path / 'in/train').symlink_to(tmp_path / 'out')
  with pytest.raises(UserError, match='in/train is a link to another folder'):
    recognise(str(tmp_path / 'in'), Options())
  layout = recognise(str(tmp_path / 'in'), Options(absolute=True))
  assert list(layout.splits) == ['train', 'validation']


def test_a_pipe_is_not_opened(tmp_path):
  making.tree(tmp_path, {'a.png': CAT})
  os.mkfifo(tmp_path / 'b.png')
  layout = recognise(str(tmp_path), Options())
  assert brief(making.records(layout)) == [('a.png', -1, ())]
  (tmp_path / 'a.png').unlink()
  os.mkfifo(tmp_path / 'a.png')
  assert making.bad(layout) == [
      ('a.png', 'no regular file: a.png')
  ]  # fmt: skip


def test_a_picture_that_went_away_is_bad(tmp_path):
  making.tree(tmp_path, {'a.png': CAT, 'b.png': DOG})
  layout = recognise(str(tmp_path), Options())
  (tmp_path / 'a.png').unlink()
  assert making.bad(layout) == [('a.png', 'missing file: a.png')]
  assert brief(making.items(layout)) == [('b.png', -1, ())]


def test_a_picture_of_gigabytes_is_not_read(tmp_path):
  with open(tmp_path / 'a.png', 'wb') as file:
    file.truncate(2**28 + 1)  # a hole: no disk is used
  ((id_, reason),) = making.bad(recognise(str(tmp_path), Options()))
  assert id_ == 'a.png' and reason == (
      'too large: a.png has 256.0 MiB, 256 are allowed'
  )


def test_a_name_that_is_no_utf8_is_bad(tmp_path):
  making.tree(tmp_path, {'a.png': CAT})
  with open(os.fsencode(tmp_path) + b'/\xff.png', 'wb') as file:
    file.write(DOG)
  layout = recognise(str(tmp_path), Options())
  assert brief(making.items(layout)) == [('a.png', -1, ())]
  assert making.bad(layout) == [
      ('\\udcff.png', 'name of a file: it is no UTF-8')
  ]  # fmt: skip


def test_parts_have_the_asked_size_and_can_be_pickled(tmp_path):
  making.tree(tmp_path, {f'{i:02d}.png': picture(i) for i in range(7)})
  layout = recognise(str(tmp_path), Options(records=3))
  parts = layout.splits['train']
  assert [(part.key, part.size) for part in parts] == [
      ('000000', 3), ('000001', 3), ('000002', 1)
  ]  # fmt: skip
  copies = pickle.loads(pickle.dumps(parts))
  assert [list(part) for part in copies] == [list(part) for part in parts]
  assert [p.fingerprint for p in copies] == [p.fingerprint for p in parts]


def test_the_fingerprint_tells_of_a_change(tmp_path):
  making.tree(tmp_path, {'a.png': CAT, 'a.txt': 'a cat'})
  one = recognise(str(tmp_path), Options()).splits['train'][0].fingerprint
  two = recognise(str(tmp_path), Options()).splits['train'][0].fingerprint
  (tmp_path / 'a.txt').write_text('a dog, rather')
  three = recognise(str(tmp_path), Options()).splits['train'][0].fingerprint
  assert one == two != three


def test_classes_from_a_file_make_other_labels_bad(tmp_path):
  making.tree(tmp_path / 'in', {'cat/1.png': CAT, 'dog/1.png': DOG})
  making.tree(tmp_path, {'names': 'owl\ncat\n'})
  options = Options(classes=str(tmp_path / 'names'))
  layout = recognise(str(tmp_path / 'in'), options)
  assert layout.classes == ('owl', 'cat')
  assert brief(making.items(layout)) == [('cat/1.png', 1, ())]
  assert making.bad(layout) == [('dog/1.png', "unknown label: 'dog'")]


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('', 'is empty'),
        ('a\nb\na\n', "has 'a' more than once"),
        (None, 'missing'),
    ],
)
def test_a_file_of_classes_that_is_refused(tmp_path, text, told):
  making.tree(tmp_path / 'in', {'a/1.png': CAT})
  if text is not None:
    making.tree(tmp_path, {'names': text})
  with pytest.raises(UserError, match=told):
    recognise(str(tmp_path / 'in'), Options(classes=str(tmp_path / 'names')))


@pytest.mark.parametrize(
    ('files', 'told'),
    [
        (('train/1.png', 'val/1.png', 'more/1.png'), "folder 'more' beside"),
        (('train/1.png', 'val/1.png', '1.png'), 'pictures beside them'),
        (('train/cat/1.png', '1.png'), 'train look like splits, but pictures'),
        (('images/train/1.png', 'images/val/2.png'),
         'images/train and images/val look like splits, and would become'),
        (('a/images/train2017/x/1.png', 'a/images/val2017/x/2.png',
          'a/images/more/3.png'), 'a/images/train2017 and a/images/val2017 lo'),
        (('train_images/1.png', 'test_images/2.png'), 'test_images and train_'),
        (('cat/train/1.png', 'cat/Test/1.png', 'dog/1.png'), 'cat/Test and ca'),
        (('train/train/1.png', 'test/test/1.png'), 'test and train look like'),
        (('val/1.png', 'valid/1.png'), "more than one folder for 'validation'"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_told_are_refused(tmp_path, files, told):
  making.tree(tmp_path, dict.fromkeys(files, CAT))
  with pytest.raises(UserError, match=told):
    recognise(str(tmp_path), Options())
