"""Headers of tars that are damaged, or made to do harm."""

import gzip
import tarfile
import tracemalloc

import pytest

from m3i_jax.prepare import archive
from m3i_jax.prepare.items import Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture

CAT, DOG, OWL = picture(1), picture(2, 'JPEG'), picture(3, 'WEBP')
# A tar with one sample, and without its end.
FIRST = making.tar({'a.jpg': DOG})[: 512 + len(DOG) + -len(DOG) % 512]


def _layout(tmp_path, data):
  making.tree(tmp_path, {'x.tar': data})
  return recognise(str(tmp_path / 'x.tar'), Options())


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
@pytest.mark.parametrize(
    ('damage', 'told'),
    [
        (bytes(512), 'zeros in its midst'),
        (b'\0b.jpg', 'no header of a member'),
        (b'\xff' * 512, 'no header of a member'),
    ],
)
def test_a_damaged_header_loses_one_member(tmp_path, damage, told, mode):
  data = bytearray(making.tar({f'{i:02d}.jpg': picture(i) for i in range(20)}))
  place = data.index(b'05.jpg')
  data[place : place + len(damage)] = damage
  data = gzip.compress(data) if mode == 'w:gz' else bytes(data)
  layout = _layout(tmp_path, data)
  assert [item.id for item in making.items(layout)] == [
      f'x/{i:02d}' for i in range(20) if i != 5
  ]  # fmt: skip
  assert making.bad(layout) == [('x', f'tar damaged: {told} at byte {place:,}')]
  with archive.open_tar(str(tmp_path / 'x.tar')) as file:
    with pytest.raises(archive.Broken, match=told):
      list(archive.members(file))


def test_zeros_and_then_no_header(tmp_path):
  data = making.tar({'a.jpg': DOG})
  layout = _layout(tmp_path, data + b'rest')
  assert [item.id for item in making.items(layout)] == ['x/a']
  ((_, reason),) = making.bad(layout)
  assert reason.startswith('tar damaged: zeros in its midst at byte ')
  assert not making.bad(_layout(tmp_path, FIRST + bytes(512)))
  assert not making.bad(_layout(tmp_path, data + bytes(700)))


@pytest.mark.parametrize('mode', ['w', 'w:gz'])
def test_a_tar_cut_where_a_member_ends(tmp_path, mode):
  data = gzip.compress(FIRST) if mode == 'w:gz' else FIRST
  layout = _layout(tmp_path, data)
  assert [item.id for item in making.items(layout)] == ['x/a']
  told = "cut short: it ends after 'a.jpg', without the zeros of an end"
  assert making.bad(layout) == [('x', f'tar {told}')]
  with archive.open_tar(str(tmp_path / 'x.tar')) as file:
    with pytest.raises(archive.Broken, match=told):
      list(archive.members(file))


def _pax(data):
  """A tar whose second member has these attributes."""
  info = tarfile.TarInfo('x')
  info.type, info.size = tarfile.XHDTYPE, len(data)
  attributes = info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
  return FIRST + attributes + making.tar({'b.jpg': CAT, 'c.jpg': OWL})


@pytest.mark.parametrize(
    ('data', 'told'),
    [
        (b'5004 size=' + b'9' * 4993 + b'\n', 'a size that is no number'),
        ('12 size=٣\n'.encode(), 'attributes'),
        ('11 size=٣\n'.encode(), 'a size that is no number'),
        (b'1 ' + b'1 a' * 300 + b'=', 'attributes'),
        (b'0 path=x\n', 'attributes'),
        (b'999 path=x\n', 'attributes'),
    ],
)
def test_attributes_that_are_wrong(tmp_path, data, told):
  layout = _layout(tmp_path, _pax(data))
  assert [item.id for item in making.items(layout)] == ['x/a', 'x/b', 'x/c']
  ((_, reason),) = making.bad(layout)
  assert reason == f'tar damaged: {told} at byte {len(FIRST) + 512:,}'


def test_attributes_take_little_memory(tmp_path):
  # Each '2 ' as a record of its own, with all that follows as its key, was
  # 1 GB.
  data = b'2 ' * (2**15 - 1) + b'='
  keys = b''.join(b'14 key%04d=1\n' % i for i in range(4000))
  making.tree(tmp_path, {'x.tar': _pax(data), 'y.tar': _pax(keys)})
  tracemalloc.start()
  try:
    recognise(str(tmp_path), Options())
    most = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert most < 4 * 2**20


def test_many_headers_of_one_member(tmp_path):
  name = tarfile.TarInfo('x')
  name.type, name.size = tarfile.GNUTYPE_LONGNAME, 5
  block = name.tobuf(tarfile.GNU_FORMAT) + b'b.jpg'.ljust(512, b'\0')
  data = FIRST + 7 * block + making.tar({'c.jpg': OWL})
  layout = _layout(tmp_path, data)
  assert making.items(layout)[0].id == 'x/a'
  ((_, reason),) = making.bad(layout)
  assert reason.startswith('tar damaged: more than 6 headers of a member')
