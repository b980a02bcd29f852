"""Colour operations against Pillow, colorsys and SciPy."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from m3i_jax import augment
from m3i_jax.augment import Colour
from m3i_jax.views import View

KEY = jax.random.key(0)
LEVEL = 1 / 255
FACTORS = (0.0, 0.6, 0.9, 1.0, 1.2, 1.4)
NONE = Colour(jitter=0, gray=0, blur=0, solarize=0)
ALL = Colour(jitter=0.9, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5,
             gray=0.2, blur=0.5, solarize=0.3)  # fmt: skip

apply = jax.jit(augment.augment, static_argnums=1)


def pictures(batch, side, seed=0):
  """uint8 [B, S, S, 3] with flat and with noisy parts."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (batch, side // 4, side // 4, 3))
  image = coarse.repeat(4, axis=1).repeat(4, axis=2)
  noise = rng.integers(-40, 41, image.shape)
  noise[:, :, np.arange(side) % 8 < 4] = 0
  return np.clip(image + noise, 0, 255).astype(np.uint8)


def view(image):
  n = len(image)
  return View(image, np.zeros((n, 4), np.float32), np.zeros(n, bool))


def changed(image, colour, key=KEY):
  return np.asarray(apply(view(image), colour, key).image)


def bernoulli(count, draws, probability):
  """Assert a count of successes within four standard deviations."""
  spread = np.sqrt(draws * probability * (1 - probability))
  assert abs(count - draws * probability) < 4 * spread


@pytest.mark.parametrize(
  'operation, enhance',
  [
    (augment.brightness, ImageEnhance.Brightness),
    (augment.contrast, ImageEnhance.Contrast),
    (augment.saturation, ImageEnhance.Color),
  ],
)
def test_blends_are_pillows(operation, enhance):
  image = pictures(len(FACTORS), 32)
  result = operation(image.astype(np.float32) / 255, np.array(FACTORS))
  for n, factor in enumerate(FACTORS):
    expected = np.asarray(enhance(Image.fromarray(image[n])).enhance(factor))
    # Pillow cuts the result to whole levels, and rounds the gray before that.
    np.testing.assert_allclose(
      result[n], expected / 255, atol=1.51 * LEVEL, rtol=0
    )


def test_gray_is_pillows():
  image = pictures(2, 32)
  result = changed(image, Colour(jitter=0, gray=1.0))
  for found, source in zip(result, image, strict=True):
    expected = np.asarray(Image.fromarray(source).convert('L')) / 255
    np.testing.assert_allclose(
      found, np.stack([expected] * 3, -1), atol=0.51 * LEVEL, rtol=0
    )


def test_hue_is_colorsys():
  turns = np.array([-0.5, -0.1, 0.0, 0.07, 0.1, 0.5], np.float32)
  image = pictures(len(turns), 16).astype(np.float32) / 255
  image[:, 0, :3] = [[0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4]]
  image[:, 0, 3:6] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
  result = np.asarray(augment.hue(image, turns))
  for n, turn in enumerate(turns.astype(float)):
    expected = []
    for pixel in image[n].reshape(-1, 3).astype(float):
      h, s, v = colorsys.rgb_to_hsv(*pixel)
      expected.append(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v))
    np.testing.assert_allclose(
      result[n].reshape(-1, 3), expected, atol=2e-6, rtol=0
    )


def test_blur_is_a_gaussian_that_repeats_the_border():
  sigma = np.array([0.1, 0.5, 1.0, 1.7, 2.0], np.float32)
  image = pictures(5, 24).astype(np.float32) / 255
  result = np.asarray(augment.gaussian_blur(image, sigma, 2.0))
  for n, s in enumerate(sigma):
    expected = scipy.ndimage.gaussian_filter(
      image[n].astype(float), s, mode='nearest', radius=6, axes=(0, 1)
    )
    np.testing.assert_allclose(result[n], expected, atol=2e-6, rtol=0)


def test_blur_is_close_to_pillows():
  """Pillow's is three box filters on whole levels; noise shows it most."""
  sigma = np.array([0.1, 0.5, 1.0, 1.5, 2.0], np.float32)
  image = pictures(5, 32)
  result = augment.gaussian_blur(image.astype(np.float32) / 255, sigma, 2.0)
  for n, s in enumerate(sigma):
    blur = ImageFilter.GaussianBlur(float(s))
    expected = np.asarray(Image.fromarray(image[n]).filter(blur)) / 255
    difference = np.abs(np.asarray(result[n]) - expected)
    assert difference.max() < 9 * LEVEL and difference.mean() < 1.2 * LEVEL


def test_solarize_is_pillows_for_every_level():
  image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
  result = changed(image, Colour(jitter=0, gray=0, solarize=1.0))
  expected = np.asarray(ImageOps.solarize(Image.fromarray(image[0])))
  np.testing.assert_allclose(result[0], expected / 255, atol=1e-6, rtol=0)


def test_nothing_asked_nothing_changed():
  image = pictures(3, 16)
  before = view(image)
  after = apply(before, NONE, KEY)
  assert after.image.dtype == jnp.float32
  np.testing.assert_allclose(after.image, image / 255, atol=1e-7)
  np.testing.assert_array_equal(after.box, before.box)
  # Pictures that are floats already are taken as 0..1.
  again = apply(after, NONE, KEY)
  np.testing.assert_array_equal(again.image, after.image)


def test_probability_of_the_blur():
  image = pictures(2000, 8)
  colour = Colour(jitter=0, gray=0, blur=0.3, sigma=(1.0, 2.0))
  difference = np.abs(changed(image, colour) - image / 255).max((1, 2, 3))
  bernoulli((difference > 1e-4).sum(), 2000, 0.3)


def test_coins_have_their_odds_and_factors_are_uniform():
  n = 2000
  image = np.full((n, 4, 4, 3), (200, 190, 180), np.uint8)
  colour = Colour(jitter=0.8, brightness=0.1, contrast=0, saturation=0, hue=0,
                  gray=0.2, solarize=0.3)  # fmt: skip
  pixel = changed(image, colour)[:, 0, 0]
  gray = np.ptp(pixel, axis=1) < 1e-6
  solarized = pixel.max(1) < 0.5
  plain = np.where(solarized[:, None], 1 - pixel, pixel)
  level = np.where(gray, 191.85, 200) / 255  # 0.299 r + 0.587 g + 0.114 b
  factor = plain[:, 0] / level
  jittered = np.abs(factor - 1) > 1e-5
  bernoulli(jittered.sum(), n, 0.8)
  bernoulli(gray.sum(), n, 0.2)
  bernoulli(solarized.sum(), n, 0.3)
  bernoulli((jittered & gray).sum(), n, 0.16)
  bernoulli((jittered & solarized).sum(), n, 0.24)
  bernoulli((gray & solarized).sum(), n, 0.06)
  factor = np.sort(factor[jittered])
  assert 0.9 - 1e-6 <= factor[0] and factor[-1] <= 1.1 + 1e-6
  # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand.
  even = (np.arange(len(factor)) + 0.5) / len(factor)
  gap = np.abs((factor - 0.9) / 0.2 - even).max()
  assert gap < 1.95 / np.sqrt(len(factor))


def test_sigma_is_drawn_for_each_picture():
  image = np.zeros((64, 15, 15, 3), np.uint8)
  image[:, 7, 7] = 255
  colour = Colour(jitter=0, gray=0, blur=1.0, sigma=(0.8, 2.0))
  peak = changed(image, colour)[:, 7, 7, 0]
  assert len(np.unique(peak)) == 64
  # A Gaussian's peak is 1 / (2 pi sigma^2): 0.040 and 0.249.
  assert 0.039 < peak.min() < 0.045 and 0.22 < peak.max() < 0.249


def test_a_picture_does_not_depend_on_its_batch():
  image = pictures(8, 16)
  many = changed(image, ALL)
  few = changed(image[:4], ALL)
  np.testing.assert_allclose(many[:4], few, atol=1e-6)
  others = image.copy()
  others[:3] = 0
  np.testing.assert_array_equal(changed(others, ALL)[3], many[3])


def test_the_key_decides():
  image = pictures(8, 16)
  np.testing.assert_array_equal(changed(image, ALL), changed(image, ALL))
  other = changed(image, ALL, jax.random.key(1))
  assert not np.allclose(other, changed(image, ALL), atol=0.01)
  same = changed(np.stack([image[0]] * 8), ALL)
  assert len(np.unique(same.reshape(8, -1), axis=0)) == 8


def test_values_stay_between_0_and_1():
  image = pictures(8, 16)
  image[:2] = [[[[0]]], [[[255]]]]
  for seed in range(40):
    result = changed(image, ALL, jax.random.key(seed))
    assert np.isfinite(result).all()
    # The blur's weights sum to 1 as far as float32 goes.
    assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6
