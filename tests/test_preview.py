"""The page of the doctor has what the first step will have."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from m3i_jax import build, dataset, preview, step
from m3i_jax.data import pipeline, texts, tokenizer
from m3i_jax.data.crops import cut
from m3i_jax.objective import Objective
from tests import small


class Caught(Exception):
  """Carries what the step gave to `Objective.sample`."""


@pytest.fixture(scope='module')
def opened():
  c = small.small_config(colours=True)
  c.data.text_length = 4
  source = dataset.open_split(c, 'train')
  words = tokenizer.open_tokenizer(
    tokenizer.train_tokenizer(texts.captions(source), 300)
  )
  objective = build.build(c, len(source.classes), words.vocab_size)
  recipe = dataset.recipe(c, objective, dataset.Data(source, words))
  return c, objective, source, recipe


@pytest.fixture(scope='module')
def made(opened):
  return preview.first_batch(*opened, 4)


def test_the_key_is_that_of_the_first_step(monkeypatch):
  def sample(self, batch, features, key):
    raise Caught(jax.random.key_data(key))

  monkeypatch.setattr(Objective, 'sample', sample)
  objective = small.small_objective()
  # Samples are drawn before anything else is asked for.
  train_step = step.make_train_step(objective, None, lambda _: 0.0, seed=3)
  rest = dict(params={}, ema={}, frozen={}, running={}, opt_state=None)
  state = step.TrainState(
    jax.numpy.int32(0), **rest, balance={}, guard={}, counts={}
  )
  with pytest.raises(Caught) as caught:
    train_step(state, small.draw_batch())
  np.testing.assert_array_equal(
    caught.value.args[0], jax.random.key_data(preview.first_key(3))
  )


def test_views_mask_and_mix_are_those_of_the_first_batch(opened, made):
  """A batch of eight, of which the page shows four."""
  c, objective, source, recipe = opened
  panel, examples = made
  rows = [pipeline.sample(source, c.seed, n, recipe) for n in range(8)]
  batch = jax.tree.map(lambda *x: np.stack(x), *rows)
  nothing = dict.fromkeys(('ema', 'frozen'), lambda images: images)
  sample = objective.sample(batch, nothing, preview.first_key(c.seed))
  for name in ('a', 'b'):
    np.testing.assert_allclose(
      panel.views[name], sample.views[name].image[:4], atol=1e-5
    )
    changed = panel.views[name] - batch[name]['image'][:4] / 255
    assert np.abs(changed).max() > 0.1
  grid = (small.GRID, small.GRID)
  np.testing.assert_array_equal(
    panel.mask, sample.mixed.mask[:4].reshape(-1, *grid)
  )
  # What is visible of each is in its place in the mix.
  spread = np.kron(panel.mask, np.ones((small.PATCH, small.PATCH)))[..., None]
  a = panel.views['a']
  np.testing.assert_allclose(
    panel.mixed, np.where(spread, a, a[[1, 0, 3, 2]]), atol=1e-5
  )
  assert [x.record for x in examples] == batch['record'][:4].tolist()


def test_a_box_cut_from_the_shown_picture_is_the_view(opened, made):
  """Mirrored ones, too."""
  c, _, source, recipe = opened
  flips = set()
  for position, example in enumerate(made[1]):
    row = pipeline.sample(source, c.seed, position, recipe)
    for name, box in example.boxes.items():
      picture = Image.fromarray(example.picture)
      assert picture.size == example.size  # small enough to be whole
      w, h = picture.size
      region = (box.top * h, box.left * w, box.height * h, box.width * w)
      # The box is of the picture as it is: the pixels are mirrored after.
      found = cut(picture, region, False, small.SIDE)
      found = found[:, ::-1] if box.flip else found
      # float32 boxes: a pixel may round the other way.
      difference = np.abs(found.astype(int) - row[name]['image'])
      assert difference.max() <= 1
      flips.add(box.flip)
  assert flips == {False, True}


def test_a_caption_shows_what_is_cut(opened, made):
  c, _, source, recipe = opened
  words = recipe.text.tokenizer
  for position, example in enumerate(made[1]):
    row = pipeline.sample(source, c.seed, position, recipe)
    assert list(example.seen) == [words.name(int(i)) for i in row['text'] if i]
    [caption] = example.captions
    whole = [words.name(i) for i in words.pieces(caption)]
    assert [*example.seen[:-1], *example.lost, example.seen[-1]] == whole
    assert example.lost and example.label == source.classes[row['label']]


def test_without_text_and_labels(opened):
  c, objective, source, recipe = opened
  bare = dataclasses.replace(recipe, text=None, label=False)
  examples = preview.first_batch(c, objective, source, bare, 2)[1]
  assert [x.label for x in examples] == ['', '']
  assert not any([*x.seen, *x.lost] for x in examples)
