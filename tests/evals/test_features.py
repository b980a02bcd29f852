"""Every record is seen once, whatever the batch size."""

import numpy as np
import pytest

from m3i_jax.errors import UserError
from m3i_jax.evals import features as features_lib

SIZE = 4


def source(split, n=11):
  rng = np.random.default_rng(len(split))
  return [
    {
      'image': rng.integers(0, 256, (6, 9, 3), dtype=np.uint8),
      'text': (f'{split} {i}', 'another'),
      'group': f'g{i % 3}',
    }
    for i in range(n)
  ]


def encode_image(pictures):
  flat = pictures.reshape(len(pictures), -1).astype(np.float32)
  return flat[:, :5] - 10


def encode_text(texts):
  return np.array([[len(t), 1.0] for t in texts])


def encoded(batch_size, images=encode_image):
  return features_lib.EncodedFeatures(
    images, encode_text, source, SIZE, batch_size
  )


@pytest.mark.parametrize('batch_size', [1, 4, 11, 16])
def test_the_batch_size_changes_nothing(batch_size):
  pictures = np.stack([
    features_lib.square(record['image'], SIZE) for record in source('train')
  ])
  found = encoded(batch_size).images('train')
  np.testing.assert_array_equal(found, encode_image(pictures))
  texts = [f'{"x" * i}' for i in range(7)]
  np.testing.assert_array_equal(
    encoded(batch_size).texts(texts)[:, 0], np.arange(7)
  )


def test_the_encoder_sees_one_shape_and_each_split_once():
  shapes = []

  def spy(pictures):
    shapes.append(pictures.shape)
    return encode_image(pictures)

  features = encoded(4, spy)
  features.images('train')
  features.images('train')
  assert shapes == [(4, SIZE, SIZE, 3)] * 3


def test_large_splits_are_read_batch_by_batch(monkeypatch):
  kept = encoded(4).images('train')
  monkeypatch.setattr(features_lib, '_KEEP_BYTES', 0)
  np.testing.assert_array_equal(encoded(4).images('train'), kept)


def test_other_weights_share_the_pictures_but_not_the_features():
  opened = []

  def open_split(split):
    opened.append(split)
    return source(split)

  first = features_lib.EncodedFeatures(
    encode_image, encode_text, open_split, SIZE, 4
  )
  first.images('train')
  second = first.with_encoders(lambda x: 2 * encode_image(x), None)
  np.testing.assert_array_equal(
    second.images('train'), 2 * first.images('train')
  )
  assert opened == ['train']
  assert first.has_text and not second.has_text


def test_labels_and_captions_are_in_order():
  features = encoded(4)
  np.testing.assert_array_equal(
    features.labels('train', 'caption'), [f'train {i}' for i in range(11)]
  )
  np.testing.assert_array_equal(
    features_lib.labels_of(features, ('train', 'vendor'), 'group'),
    [f'g{i % 3}' for i in range(11)] * 2,
  )


def test_a_field_that_is_not_there_is_named():
  with pytest.raises(UserError, match="no field 'family'.*group, text"):
    encoded(4).labels('train', 'family')


def test_pixels_have_no_mean_and_no_text():
  pixels = features_lib.PixelFeatures(source, side=2).images('train')
  assert pixels.shape == (11, 12)
  np.testing.assert_allclose(pixels.mean(axis=1), 0, atol=1e-7)
  assert not features_lib.PixelFeatures(source).has_text


def test_a_broken_picture_is_black_and_still_counted(caplog):
  def broken(split):
    return [record | {'image': b'no picture'} for record in source(split, 3)]

  pixels = features_lib.PixelFeatures(broken).images('train')
  np.testing.assert_array_equal(pixels, np.zeros((3, 768)))
  assert 'train record 2' in caplog.text


def test_square_keeps_the_centre():
  picture = np.zeros((4, 10, 3), np.uint8)
  picture[:, 3:7] = 255
  np.testing.assert_array_equal(features_lib.square(picture, 4), 255)
