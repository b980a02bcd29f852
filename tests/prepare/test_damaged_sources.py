"""Sources with random damage: one line for the user, or record by record."""

import random
import tarfile

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare.items import Item, Options
from m3i_jax.prepare.readers import recognise
from tests.prepare import making
from tests.prepare.making import picture


def _sources():
  members = {}
  for i in range(5):
    name = f'{"long" * 40}{i}'
    members[f'{name}.jpg'] = picture(i)
    members[f'{name}.txt'] = b'a caption'
    members[f'{name}.json'] = b'{"caption": "x", "label": 3}'
  rows = range(20)
  return {
      'gnu.tar': making.tar(members),
      'pax.tar': making.tar(members, kind=tarfile.PAX_FORMAT),
      'gzip.tar': making.tar(members, 'w:gz'),
      't.csv': b'path,caption,label\n' + b''.join(
          b'a.png,"it, %d",c%d\n' % (i, i) for i in rows
      ),
      't.jsonl': b''.join(
          b'{"image": "a.png", "caption": ["it"], "label": %d}\n' % i
          for i in rows
      ),
  }


SOURCES = _sources()


def _damaged(data, draw):
  """With some bytes changed, overwritten, cut out, or the end cut off."""
  data = bytearray(data)
  for _ in range(draw.choice([1, 1, 2, 5, 30])):
    place, length = draw.randrange(len(data)), draw.randrange(1, 600)
    kind = draw.choice(['change', 'change', 'overwrite', 'cut', 'end'])
    if kind == 'change':
      data[place] = draw.randrange(256)
    elif kind == 'overwrite':
      data[place : place + length] = draw.randbytes(length)
    elif kind == 'cut':
      del data[place : place + length]
    else:
      del data[place + 1 :]
    data = data or bytearray(b'x')
  return bytes(data)


@pytest.mark.parametrize('name', SOURCES)
def test_damage_is_told_in_single_lines(tmp_path, name):
  draw = random.Random(name)
  seen = set()
  for _ in range(150):
    making.tree(
        tmp_path, {'a.png': picture(), name: _damaged(SOURCES[name], draw)}
    )
    try:
      layout = recognise(str(tmp_path / name), Options(records=3))
      records = [r for part in layout.splits['train'] for r in part]
    except UserError as error:
      seen.add('refused')
      assert len(str(error).splitlines()) == 1
      continue
    for record in records:
      seen.add(type(record).__name__)
      record.id.encode()
      if isinstance(record, Item):
        assert -1 <= record.label < len(layout.classes)
        ''.join(record.captions).encode()
      else:
        assert len(record.reason.splitlines()) == 1
  assert seen == {'refused', 'Item', 'Bad'}
