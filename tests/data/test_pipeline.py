"""Order, replacement: every row a function of (seed, position)."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from m3i_jax.data import pipeline
from m3i_jax.data.crops import Crop
from m3i_jax.data.pipeline import Recipe, Text, loader, sample
from m3i_jax.data.quarantine import Quarantine
from m3i_jax.data.sources import Fields, open_source
from m3i_jax.data.tokenizer import Tokenizer, train_tokenizer
from m3i_jax.errors import UserError

VIEWS = Recipe({'a': Crop(16), 'b': Crop(8, scale=(.2, .6))}, label=True)
FIELDS = Fields(label='label', text='caption', tags='tags')
WHOLE = Recipe({'a': Crop(64, (1., 1.), (1., 1.), flip=0)}, label=True)


class Listed:
  """A source made of the given pictures; label i."""

  classes, names = (), {}

  def __init__(self, pictures, **fields):
    self.pictures = pictures
    self.fields = {'text': (), 'tags': ()} | fields

  def __len__(self):
    return len(self.pictures)

  def __getitem__(self, i):
    return self.fields | {'image': self.pictures[i], 'label': i, 'id': f'no{i}'}


def _noise(seed, height=32, width=32):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _jpeg(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=95)
  return file.getvalue()


@pytest.fixture(scope='module')
def shapes():
  return open_source('synthetic:37', 'train', FIELDS)


def test_a_row_tells_where_its_views_are():
  ramp = np.zeros((64, 48, 3), np.uint8)
  ramp[..., 0] = np.arange(64)[:, None] * 4
  ramp[..., 1] = np.arange(48) * 4
  for position in range(20):
    row = sample(Listed([ramp]), 3, position, VIEWS)
    for view in (row['a'], row['b']):
      side = len(view['image'])
      top, left, height, width = view['box']
      middle = (np.arange(side) + .5) / side
      y = (top + height * middle) * 64 - .5
      x = (left + width * middle) * 48 - .5
      x = 47 - x if view['flip'] else x
      inner = slice(2, -2)  # bicubic weights lean inwards at the border
      np.testing.assert_allclose(
          view['image'][inner, 2, 0], 4 * y[inner], atol=1.5
      )
      np.testing.assert_allclose(
          view['image'][2, inner, 1], 4 * x[inner], atol=1.5
      )


def test_view_b_leaves_view_a_alone(shapes):
  alone = Recipe({'a': Crop(16)})
  np.testing.assert_equal(
      sample(shapes, 1, 5, VIEWS)['a'], sample(shapes, 1, 5, alone)['a']
  )
  twice = Recipe({'a': Crop(16), 'b': Crop(16)})
  row = sample(shapes, 1, 5, twice)
  assert (row['a']['box'] != row['b']['box']).any()


def test_seed_and_position_change_the_views(shapes):
  rows = [sample(shapes, s, p, VIEWS) for s, p in ((0, 0), (0, 37), (1, 0))]
  boxes = {tuple(row['a']['box'].tolist()) for row in rows}
  assert len(boxes) == 3


def _run(source, recipe=VIEWS, start=0, stop=4, local=slice(None), **kwargs):
  return list(
      loader(
          source, recipe, seed=5, batch_size=12, start_step=start,
          stop_step=stop, local=local, **kwargs,
      )
  )


def _gather(parts):
  """The global batches of several hosts' local ones."""
  return [
      pipeline._combine(np.concatenate, batches)
      for batches in zip(*parts, strict=True)
  ]


def test_batch_contract(shapes):
  captions = [shapes[i]['text'][0] for i in range(37)]
  tokenizer = Tokenizer(train_tokenizer(captions, 400))
  recipe = Recipe(VIEWS.crops, True, Text(tokenizer, 24))
  batch = _run(shapes, recipe, stop=1)[0]
  kinds = {
      key: {k: (v.dtype.name, v.shape) for k, v in value.items()}
      if isinstance(value, dict) else (value.dtype.name, value.shape)
      for key, value in batch.items()
  }
  view = {'box': ('float32', (12, 4)), 'flip': ('bool', (12,))}
  assert kinds == {
      'a': {'image': ('uint8', (12, 16, 16, 3))} | view,
      'b': {'image': ('uint8', (12, 8, 8, 3))} | view,
      'label': ('int32', (12,)),
      'text': ('int32', (12, 24)),
      'truncated': ('bool', (12,)),
      'record': ('int32', (12,)),
      'replaced': ('bool', (12,)),
  }
  for record, label, text in zip(
      batch['record'], batch['label'], batch['text'], strict=True
  ):
    assert shapes[record]['label'] == label
    assert shapes[record]['text'] == (tokenizer.decode(text),)
  assert set(_run(shapes, Recipe({'a': Crop(8)}), stop=1)[0]) == {
      'a', 'record', 'replaced'
  }


@pytest.mark.parametrize('hosts', [2, 4])
def test_the_order_does_not_depend_on_the_hosts(shapes, hosts):
  whole = _run(shapes)
  rows = np.split(np.arange(12), hosts)
  slices = [_run(shapes, local=slice(r[0], r[-1] + 1)) for r in rows]
  np.testing.assert_equal(_gather(slices), whole)
  strided = [np.arange(12)[h::hosts] for h in range(hosts)]
  some = _run(shapes, local=strided[1])
  for part, full in zip(some, whole, strict=True):
    np.testing.assert_array_equal(
        part['a']['image'], full['a']['image'][strided[1]]
    )


def test_resuming_gives_the_batches_that_were_left(shapes):
  np.testing.assert_equal(_run(shapes, start=2), _run(shapes)[2:])
  assert _run(shapes, start=4) == []


def test_threads_and_chunks_change_nothing(shapes, monkeypatch):
  whole = _run(shapes, threads=1)
  np.testing.assert_equal(_run(shapes, threads=4), whole)
  monkeypatch.setattr(pipeline, '_CHUNK', 5)  # 12 rows as 4, 4, 4
  np.testing.assert_equal(_run(shapes), whole)


@pytest.mark.slow
def test_processes_change_nothing(shapes):
  np.testing.assert_equal(_run(shapes, workers=2), _run(shapes))


def test_epochs_are_new_permutations(shapes):
  records = np.array(
      [sample(shapes, 0, p, WHOLE)['record'] for p in range(3 * 37)]
  ).reshape(3, 37)
  np.testing.assert_array_equal(np.sort(records), [np.arange(37)] * 3)
  assert (records[0] != records[1]).any() and (records[1] != records[2]).any()
  other = [sample(shapes, 1, p, WHOLE)['record'] for p in range(37)]
  assert (records[0] != other).any()


def test_a_broken_record_gives_way_to_the_next(tmp_path):
  whole = [_jpeg(_noise(i, 64, 64)) for i in range(9)]
  broken = list(whole)
  broken[4] = broken[4][:200]
  broken[8] = b'nothing'
  listed = Quarantine(str(tmp_path / 'quarantine.jsonl'))
  for position in range(27):
    row = sample(Listed(broken), 2, position, WHOLE, listed)
    before = sample(Listed(whole), 2, position, WHOLE)
    asked = int(before['record'])
    # Seven of nine further: a step with no factor in common.
    stands_in = {4: 2, 8: 6}.get(asked, asked)
    assert row['record'] == row['label'] == stands_in
    assert row['replaced'] == (asked in (4, 8))
    np.testing.assert_array_equal(row['a']['box'], before['a']['box'])
  lines = (tmp_path / 'quarantine.jsonl').read_text().splitlines()
  # Each once.
  assert sorted(json.loads(line)['id'] for line in lines) == ['no4', 'no8']


def test_nothing_but_broken_records():
  with pytest.raises(UserError, match='100 pictures in a row'):
    sample(Listed([b'no'] * 3), 0, 0, WHOLE)
  with pytest.raises(UserError, match='check the data set'):
    next(
        loader(Listed([b'no'] * 3), WHOLE, seed=0, batch_size=2, start_step=0,
               stop_step=1)
    )
