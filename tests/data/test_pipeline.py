"""Crops, order, replacement: every row a function of (seed, position)."""

import io

import numpy as np
import pytest
from PIL import Image

from m3i_jax.data import pipeline
from m3i_jax.data.pipeline import (
  Crop,
  Recipe,
  Text,
  cut,
  loader,
  sample,
  sample_box,
)
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


def _boxes(crop, height, width, count):
  rng = np.random.default_rng(0)
  drawn = [sample_box(rng, height, width, crop) for _ in range(count)]
  return np.array([box for box, _ in drawn]), np.array([f for _, f in drawn])


def test_boxes_are_as_wide_as_asked():
  height, width = 400, 600
  boxes, flips = _boxes(Crop(1), height, width, 20_000)
  top, left, h, w = boxes.T
  assert top.min() >= 0 and left.min() >= 0
  assert (top + h).max() <= height and (left + w).max() <= width
  area, ratio = h * w / (height * width), w / h
  assert area.min() > .079 and ratio.min() > .74 and ratio.max() < 1.35
  assert abs(flips.mean() - .5) < .02  # 5 sigma
  # Where all boxes fit, area is uniform and log ratio is uniform.
  small = area < .4
  grid = np.linspace(.08, .4, 9)
  cumulative = [(area[small] < level).mean() for level in grid]
  np.testing.assert_allclose(cumulative, np.linspace(0, 1, 9), atol=.03)
  turned = np.log(ratio[small]) / np.log(4 / 3)
  assert abs(turned.mean()) < .03 and abs(turned.var() - 1 / 3) < .02
  # Free room is used evenly.
  place = top[small] / (height - h[small])
  assert abs(place.mean() - .5) < .02 and abs(place.var() - 1 / 12) < .01


def test_boxes_follow_torchvision_given_the_same_numbers():
  """The rule of RandomResizedCrop.get_params, written out once more."""

  class Given:
    def __init__(self, seed):
      rng = np.random.default_rng(seed)
      self.numbers = {3: rng.random(3), (10, 2): rng.random((10, 2))}

    def random(self, shape):
      return self.numbers[shape]

  def expected(given, height, width, crop):
    _, row, column = given.random(3)
    for u, v in given.random((10, 2)):
      area = height * width * (crop.scale[0] * (1 - u) + crop.scale[1] * u)
      ratio = crop.ratio[0] ** (1 - v) * crop.ratio[1] ** v
      w = int(round(np.sqrt(area * ratio)))
      h = int(round(np.sqrt(area / ratio)))
      if 0 < w <= width and 0 < h <= height:
        return int(row * (height - h + 1)), int(column * (width - w + 1)), h, w
    if width / height < crop.ratio[0]:
      w, h = width, int(round(width / crop.ratio[0]))
    elif width / height > crop.ratio[1]:
      w, h = int(round(height * crop.ratio[1])), height
    else:
      w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w

  for seed in range(500):
    size = [(50, 50), (30, 90), (90, 30), (10, 200), (200, 10)][seed % 5]
    given = Given(seed)
    got, _ = sample_box(given, *size, Crop(1))
    assert got == expected(given, *size, Crop(1))


def test_a_thin_picture_gets_its_centre():
  cases = ((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10))
  for size, want in cases:
    boxes, _ = _boxes(Crop(1, scale=(.9, 1.)), *size, 20)
    assert (boxes == want).all()


def test_crop_then_mirror_equals_mirror_then_crop():
  pixels = _noise(0, 41, 57)
  mirrored = Image.fromarray(pixels[:, ::-1].copy())
  image = Image.fromarray(pixels)
  rng = np.random.default_rng(2)
  for _ in range(100):
    box, _ = sample_box(rng, 41, 57, Crop(1))
    got, want = cut(image, box, True, 24), cut(mirrored, box, False, 24)
    np.testing.assert_allclose(got.astype(int), want, atol=1)  # rounding
    assert (got == want).mean() > .999


def test_an_unscaled_crop_is_the_pixels():
  pixels = _noise(1)
  got = cut(Image.fromarray(pixels), (3, 5, 16, 16), False, 16)
  np.testing.assert_array_equal(got, pixels[3:19, 5:21])
  got = cut(Image.fromarray(pixels), (3, 5, 16, 16), True, 16)
  np.testing.assert_array_equal(got, pixels[:, ::-1][3:19, 5:21])


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


def test_large_jpegs_keep_their_geometry(monkeypatch):
  ramp = np.add.outer(np.arange(801) / 6.4, np.arange(1201) / 9.6)
  pixels = np.repeat(ramp[..., None], 3, 2).astype(np.uint8)
  encoded = _jpeg(pixels)
  decoded = np.asarray(Image.open(io.BytesIO(encoded)))
  recipe = Recipe({'a': Crop(32, scale=(.3, 1.)), 'b': Crop(16, (.3, 1.))})
  widths = []
  monkeypatch.setattr(
      pipeline, 'cut', lambda i, *rest: widths.append(i.width) or cut(i, *rest)
  )
  for position in range(30):
    fast = sample(Listed([encoded]), 0, position, recipe)
    exact = sample(Listed([decoded]), 0, position, recipe)
    for name in 'ab':
      np.testing.assert_array_equal(fast[name]['box'], exact[name]['box'])
      error = fast[name]['image'].astype(int) - exact[name]['image']
      assert abs(error).max() <= 4  # JPEG noise
      # Off by one column of eight pixels would be .8.
      assert abs(error.mean()) < .3
  assert {151, 301, 1201} <= set(widths)  # it did decode at 1/8 and 1/4


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


def test_a_broken_record_gives_way_to_the_next(monkeypatch):
  whole = [_jpeg(_noise(i, 64, 64)) for i in range(9)]
  broken = list(whole)
  broken[4] = broken[4][:200]
  broken[8] = b'nothing'
  lines = []
  pipeline._report.cache_clear()
  monkeypatch.setattr(
      pipeline.logging, 'warning', lambda *args: lines.append(args[1])
  )
  for position in range(27):
    row = sample(Listed(broken), 2, position, WHOLE)
    before = sample(Listed(whole), 2, position, WHOLE)
    asked = int(before['record'])
    stands_in = {4: 5, 8: 0}.get(asked, asked)
    assert row['record'] == row['label'] == stands_in
    assert row['replaced'] == (asked in (4, 8))
    np.testing.assert_array_equal(row['a']['box'], before['a']['box'])
  assert sorted(lines) == ['no4', 'no8']  # each once


def test_nothing_but_broken_records():
  with pytest.raises(UserError, match='100 pictures in a row'):
    sample(Listed([b'no'] * 3), 0, 0, WHOLE)
  with pytest.raises(UserError, match='check the data set'):
    next(
        loader(Listed([b'no'] * 3), WHOLE, seed=0, batch_size=2, start_step=0,
               stop_step=1)
    )
