"""Random resized crops: where they are, and their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from m3i_jax.data import crops, pictures, pipeline
from m3i_jax.data.crops import Crop, cut, cut_all, sample_box
from tests.data import odd_pictures


def _noise(seed, height=32, width=32):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _jpeg(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, 'JPEG', quality=95)
  return file.getvalue()


def _rng(position):
  return lambda name: np.random.default_rng((0, position, 'xab'.index(name)))


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


def test_large_jpegs_keep_their_geometry(monkeypatch):
  ramp = np.add.outer(np.arange(801) / 6.4, np.arange(1201) / 9.6)
  pixels = np.repeat(ramp[..., None], 3, 2).astype(np.uint8)
  encoded = _jpeg(pixels)
  decoded = np.asarray(Image.open(io.BytesIO(encoded)))
  recipe = {'a': Crop(32, scale=(.3, 1.)), 'b': Crop(16, (.3, 1.))}
  widths = []
  monkeypatch.setattr(
      crops, 'cut', lambda i, *rest: widths.append(i.width) or cut(i, *rest)
  )
  for position in range(30):
    fast = cut_all(encoded, recipe, _rng(position))
    exact = cut_all(decoded, recipe, _rng(position))
    for name in 'ab':
      np.testing.assert_array_equal(fast[name]['box'], exact[name]['box'])
      error = fast[name]['image'].astype(int) - exact[name]['image']
      assert abs(error).max() <= 4  # JPEG noise
      # Off by one column of eight pixels would be .8.
      assert abs(error.mean()) < .3
  assert {151, 301, 1201} <= set(widths)  # it did decode at 1/8 and 1/4


@pytest.mark.parametrize('turn', odd_pictures.SIDES)
def test_crops_are_of_the_upright_picture(turn):
  stored = odd_pictures.turned(_noise(3, 150, 211), turn)
  exif = odd_pictures.exif(turn)
  recipe = {'a': Crop(32), 'b': Crop(16, (.3, 1.))}
  for kind in ('PNG', 'JPEG'):
    data = odd_pictures.encoded(stored, kind, exif=exif)
    upright = pictures.decode(data)
    assert upright.shape == (150, 211, 3)
    for position in range(4):
      got = cut_all(data, recipe, _rng(position))
      want = cut_all(upright, recipe, _rng(position))
      if kind == 'PNG':
        np.testing.assert_equal(got, want)
      for name in 'ab':  # JPEGs may be decoded at half their size
        np.testing.assert_array_equal(got[name]['box'], want[name]['box'])


@pytest.mark.parametrize('turn', odd_pictures.SIDES)
def test_turned_jpegs_keep_their_geometry(turn):
  """As above, of a picture whose sides are no multiples of eight."""
  ramp = np.add.outer(np.arange(801) / 6.4, np.arange(1201) / 9.6)
  pixels = np.repeat(ramp[..., None], 3, 2).astype(np.uint8)
  stored = odd_pictures.turned(pixels, turn)
  data = odd_pictures.encoded(
      stored, 'JPEG', quality=95, exif=odd_pictures.exif(turn)
  )
  decoded = pictures.decode(data)
  recipe = {'a': Crop(32, (.3, 1.)), 'b': Crop(16, (.3, 1.))}
  for position in range(6):
    fast = cut_all(data, recipe, _rng(position))
    exact = cut_all(decoded, recipe, _rng(position))
    for name in 'ab':
      error = fast[name]['image'].astype(int) - exact[name]['image']
      assert abs(error).max() <= 4 and abs(error.mean()) < .3


@pytest.mark.slow
def test_pixels_do_not_depend_on_threads_or_processes():
  """Of encoded pictures of all kinds; of drawn ones see test_pipeline."""

  class Odd:
    classes, names = (), {}
    files = [data for data, _, _ in odd_pictures.odd().values()]

    def __len__(self):
      return len(self.files)

    def __getitem__(self, i):
      return {'image': self.files[i], 'id': str(i)}

  recipe = pipeline.Recipe({'a': Crop(32), 'b': Crop(16, (.3, 1.))})

  def batches(threads, workers):
    return list(pipeline.loader(
        Odd(), recipe, seed=3, batch_size=40, start_step=0, stop_step=3,
        threads=threads, workers=workers,
    ))  # fmt: skip

  want = batches(1, 0)
  for threads, workers in ((3, 0), (1, 1), (2, 3), (1, 4)):
    np.testing.assert_equal(batches(threads, workers), want)
