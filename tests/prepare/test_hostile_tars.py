"""Tars that are damaged, or made to do harm: what is good arrives."""

import gzip
import pickle
import random
import tarfile

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import raw
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import brief, picture

CAT, DOG, OWL = picture(1), picture(2, 'JPEG'), picture(3, 'WEBP')
# A tar with one sample, and without its end.
FIRST = making.tar({'a.jpg': DOG})[: 512 + len(DOG) + -len(DOG) % 512]


def _layout(tmp_path, content, **options):
  """Of a tar with these members, or of these bytes."""
  data = content if isinstance(content, bytes) else making.tar(content)
  making.tree(tmp_path, {'x.tar': data})
  return recognise(str(tmp_path / 'x.tar'), Options(**options))


@pytest.mark.parametrize(
    ('name', 'fields', 'why'),
    [
        ('../b.jpg', {}, 'path leads out'),
        ('a/../../b.jpg', {}, 'path leads out'),
        ('..\\b.jpg', {}, 'path leads out'),
        ('/etc/b.jpg', {}, 'absolute path'),
        ('C:\\b.jpg', {}, 'absolute path'),
        ('b.jpg', {'type': b'2', 'linkname': '/etc/passwd'}, 'symbolic link'),
        ('b.jpg', {'type': b'1', 'linkname': '../x.jpg'}, 'hard link'),
        ('b.jpg', {'type': b'3', 'devmajor': 1, 'devminor': 5}, 'device'),
        ('b.jpg', {'type': b'4', 'devmajor': 8}, 'device'),
        ('b.jpg', {'type': b'6'}, 'pipe'),
        ('', {'type': b'0'}, 'no name'),
        ('b.jpg', {'type': b'Q'}, 'unknown kind'),
    ],
)
def test_unsafe_members_are_not_followed(tmp_path, name, fields, why):
  members = {'a.jpg': DOG, name: fields or CAT, 'c.jpg': OWL}
  layout = _layout(tmp_path, members)
  assert [item.id for item in making.items(layout)] == ['x/a', 'x/c']
  id_ = f'x/{name}'.rstrip('/')
  assert making.bad(layout) == [(id_, f'unsafe member: {why}')]


class _Canary:
  """Leaves a file where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), 'w')


def test_pickles_are_never_opened(tmp_path):
  payload = pickle.dumps(_Canary(tmp_path / 'canary'))
  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'a.pkl': payload, 'a.pyd': payload, 'b.npy': payload,
      'c.jpg': OWL, 'c.txt': b'an owl',
  })  # fmt: skip
  assert [item.id for item in making.items(layout)] == ['x/a', 'x/c']
  assert making.bad(layout) == [('x/b', 'no picture: it has npy')]
  assert layout.told.endswith('members left alone: npy, pkl, pyd')
  assert not (tmp_path / 'canary').exists()


def test_a_member_that_is_too_large_is_not_read(tmp_path, monkeypatch):
  monkeypatch.setattr(raw, 'PICTURE_BYTES', 2000)
  monkeypatch.setattr(raw, 'TEXT_BYTES', 1000)
  layout = _layout(tmp_path, {
      'a.jpg': bytes(2001), 'a.txt': b'a', 'b.jpg': DOG, 'b.txt': bytes(1001),
      'c.jpg': DOG, 'c.json': b' ' * 1001, 'd.jpg': OWL,
  })  # fmt: skip
  assert [item.id for item in making.items(layout)] == ['x/d']
  found = making.bad(layout)
  assert [id_ for id_, _ in found] == ['x/a', 'x/b', 'x/c']
  assert all(reason.startswith('too large: ') for _, reason in found)


def test_a_size_of_terabytes_takes_no_memory(tmp_path):
  info = tarfile.TarInfo('b.jpg')
  info.size = 2**42
  data = FIRST + info.tobuf(tarfile.GNU_FORMAT)
  layout = _layout(tmp_path, data + b'...')
  assert [item.id for item in making.items(layout)] == ['x/a']
  reasons = [reason for _, reason in making.bad(layout)]
  assert reasons[0] == "tar cut short: the tar ends within 'b.jpg'"
  assert reasons[1].startswith('too large: b.jpg')


@pytest.mark.parametrize(
    'attributes', [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_attributes_of_gigabytes_are_not_read(tmp_path, attributes):
  info = tarfile.TarInfo('x')
  info.type, info.size = attributes, 2**33
  data = FIRST + info.tobuf(tarfile.GNU_FORMAT)
  layout = _layout(tmp_path, data)
  assert [item.id for item in making.items(layout)] == ['x/a']
  assert making.bad(layout) == [(
      'x', 'tar damaged: 8,589,934,592 bytes of attributes at byte '
      f'{len(FIRST) + 512:,}'
  )]  # fmt: skip


def test_a_tar_cut_within_a_picture(tmp_path):
  data = making.tar({'a.jpg': DOG, 'a.txt': b'a dog', 'b.jpg': bytes(5000)})
  cut = data.index(b'b.jpg') + 2000
  layout = _layout(tmp_path, data[:cut])
  assert brief(making.items(layout)) == [('x/a', -1, ('a dog',))]
  assert making.bad(layout) == [
      ('x', "tar cut short: the tar ends within 'b.jpg'")
  ]  # fmt: skip


def test_a_compressed_tar_cut_short(tmp_path):
  noise = random.Random(0).randbytes(50_000)
  data = making.tar({'a.jpg': DOG, 'b.jpg': noise}, 'w:gz')
  layout = _layout(tmp_path, data[: len(data) // 2])
  assert [item.id for item in making.items(layout)] == ['x/a']
  ((id_, reason),) = making.bad(layout)
  assert id_ == 'x' and reason.startswith("tar cut short: 'b.jpg'")


def test_a_compressed_tar_with_wrong_bytes(tmp_path):
  data = bytearray(making.tar({'a.jpg': DOG, 'b.jpg': CAT}, 'w:gz'))
  data[-6] ^= 255  # of its checksum
  layout = _layout(tmp_path, bytes(data))
  reasons = [reason for _, reason in making.bad(layout)]
  assert len(reasons) <= 1 and all(r.startswith('tar damaged') for r in reasons)
  assert [item.id for item in making.items(layout)] == ['x/a', 'x/b']


def test_one_tar_that_is_none_among_others(tmp_path):
  making.tree(tmp_path, {
      '0.tar': making.tar({'a.jpg': DOG}), '1.tar': b'<html>not found</html>',
      '2.tar': b'', '3.tar': gzip.compress(b'')[:10],
  })  # fmt: skip
  layout = recognise(str(tmp_path), Options())
  assert [item.id for item in making.items(layout)] == ['0/a']
  assert [id_ for id_, _ in making.bad(layout)] == ['1', '2', '3']


@pytest.mark.parametrize(
    ('member', 'reason'),
    [
        (b'{', 'JSON cannot be read: '),
        (b'[1]', 'JSON is no object: '),
        (b'\xff\xfe\x00', 'JSON cannot be read: '),
        (b'[' * 100_000, 'JSON cannot be read: '),
        (b'{"caption": 7}', 'caption is no text: '),
    ],
)
def test_json_that_cannot_be_used(tmp_path, member, reason):
  good = b'{"caption": "good"}'
  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'a.json': good, 'b.jpg': CAT, 'b.json': member
  })  # fmt: skip
  assert brief(making.items(layout)) == [('x/a', -1, ('good',))]
  ((id_, found),) = making.bad(layout)
  assert id_ == 'x/b' and found.startswith(reason)


def test_a_caption_in_another_encoding(tmp_path):
  layout = _layout(tmp_path, {'a.jpg': DOG, 'a.txt': b'K\xe4se'})
  ((_, reason),) = making.bad(layout)
  assert reason.startswith('encoding of a text: x/a.txt')


def test_members_that_do_not_follow_each_other(tmp_path):
  layout = _layout(tmp_path, {
      'a.jpg': DOG, 'b.jpg': CAT, 'a.txt': b'a', 'b.txt': b'b'
  })  # fmt: skip
  assert [item.id for item in making.items(layout)] == ['x/a', 'x/b']
  found = making.bad(layout)
  assert [id_ for id_, _ in found] == ['x/a', 'x/b']
  assert all(reason.startswith('scattered sample: ') for _, reason in found)


def test_a_member_twice(tmp_path):
  data = making.tar({'a.jpg': DOG, 'b.jpg': CAT}).replace(b'b.jpg', b'a.jpg')
  file = bytearray(data)
  place = file.rindex(b'a.jpg')
  header = tarfile.TarInfo('a.jpg')
  header.size = len(CAT)
  file[place : place + 512] = header.tobuf(tarfile.GNU_FORMAT)
  layout = _layout(tmp_path, bytes(file))
  assert making.records(layout)[0].reason == 'member twice: a.jpg'


@pytest.mark.parametrize(
    ('members', 'told'),
    [
        ({'a.txt': b'a', 'a.json': b'{"k": 1}'}, 'json, txt, json:k, wanted'),
        ({'a.pkl': b''}, 'members are pkl, wanted is jpg, '),
        ({}, 'members are none'),
    ],
)
def test_tars_without_pictures_are_refused_at_once(tmp_path, members, told):
  with pytest.raises(UserError, match=told):
    _layout(tmp_path, members)


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'text': 'alt'}, "no 'alt' in the first records: they have jpg, txt"),
        ({'label': 'cls'}, "no 'cls' in the first records"),
        ({'image': 'png'}, 'wanted is png'),
    ],
)
def test_what_was_asked_for_and_is_not_there(tmp_path, options, told):
  with pytest.raises(UserError, match=told):
    _layout(tmp_path, {'a.jpg': DOG, 'a.txt': b'a'}, **options)


def test_a_file_that_is_no_tar(tmp_path):
  with pytest.raises(UserError, match='no header of a member at byte 0'):
    _layout(tmp_path, b'<html>' * 1000)
