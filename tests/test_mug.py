"""MUG as a whole: what its caption and its pixels may depend on."""

import jax
import numpy as np
import pytest

from configs import mug
from m3i_jax import build, step, views

KEY = jax.random.key(5)


@pytest.fixture(scope='module')
def parts():
  """(objective, batch, predict(batch) -> (predictions, caption loss, mask))."""
  c = mug.get_config('debug')
  objective = build.build(c, 5, 60)
  rng = np.random.default_rng(0)
  batch = step.zero_batch(4, c.image_size, ('a',), 7)
  batch['a']['image'] = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
  batch['text'] = rng.integers(4, 60, (4, 7)).astype(np.int32)
  batch['text'][:, 0], batch['text'][:, 5:] = 2, [3, 0]
  variables = jax.jit(lambda: objective.init(KEY, batch, KEY))()

  def predict(batch):
    sample = objective.sample(batch, {}, KEY)
    z_x = objective.apply(variables, sample, False, method='encode')
    said = {}
    for group in ('ssp', 'sp'):
      said |= objective.apply(variables, z_x, sample, group, method='predict')
    loss = objective.apply(variables, z_x, sample, 'sp', method='group_loss')
    return {k: v[0] for k, v in said.items()}, loss[0], sample.mixed.mask

  return objective, batch, jax.jit(predict)


def with_image(batch, image):
  return batch | {'a': batch['a'] | {'image': image}}


def test_hidden_pixels_change_nothing(parts):
  """No prediction by a bit; one visible patch changes them all."""
  objective, batch, predict = parts
  said, loss, mask = predict(batch)
  patch = objective.encoder.patch
  assert (mask.sum(1) == 4).all()  # a quarter of 16
  cells = np.asarray(views.patches(batch['a']['image'], patch))
  hidden = np.where(mask[..., None], cells, 255 - cells)
  other = predict(with_image(batch, views.unpatches(hidden, patch)))
  for name in ('pixels', 'caption'):
    np.testing.assert_array_equal(other[0][name], said[name])
  np.testing.assert_array_equal(other[1], loss)
  seen = cells.copy()
  for n in range(4):
    first = np.flatnonzero(mask[n])[0]
    seen[n, first] = 255 - seen[n, first]
  moved = predict(with_image(batch, views.unpatches(seen, patch)))
  for name in ('pixels', 'caption'):
    change = np.abs(moved[0][name] - said[name]).reshape(4, -1).max(1)
    assert change.min() > 1e-4, name


def test_a_record_without_caption_adds_nothing(parts):
  """To the loss and to what it is divided by: the mean over real pieces."""
  _, batch, predict = parts
  text = batch['text'].copy()
  text[2] = 0
  said, loss, _ = predict(batch | {'text': text})
  logits = np.float64(said['caption'])
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = [
    -log_p[n, t, text[n, t + 1]]
    for n in (0, 1, 3)
    for t in range(6)
    if text[n, t + 1]
  ]
  assert len(nll) == 15
  np.testing.assert_allclose(loss, np.mean(nll), rtol=1e-5)
