"""Zero-shot against a sort of every cosine, and a case made by hand."""

import numpy as np
import pytest

from m3i_jax.evals import zeroshot
from tests.evals.fakes import Arrays


def test_ranks_match_a_sort():
  rng = np.random.default_rng(0)
  images, texts = rng.normal(size=(300, 6)), rng.normal(size=(40, 6))
  truth = rng.integers(0, 40, 300)
  cosine = (images / np.linalg.norm(images, axis=1)[:, None]) @ (
    texts / np.linalg.norm(texts, axis=1)[:, None]
  ).T
  order = np.argsort(-cosine, axis=1)
  np.testing.assert_array_equal(
    zeroshot.zeroshot_ranks(images, texts, truth),
    np.argmax(order == truth[:, None], axis=1),
  )


def test_only_queries_with_a_candidate_are_asked():
  table = {'cat': [1, 0], 'dog': [0, 1], 'cow': [-1, 0]}
  features = Arrays(
    {'test': [[5, 1], [3, 1], [0, 1]]},
    {
      'test': {'caption': ['cat', 'dog', 'emu']},
      'more': {'caption': ['cat', 'dog']},
      'rest': {'caption': ['cow', 'cat']},
    },
    table,
  )
  found = zeroshot.ZeroShot('test', ('more', 'rest')).run(features)
  assert found['top1'] == 50 and found['top5'] == 100
  assert found['top1_chance'] == pytest.approx(100 / 3)
  assert found['top5_chance'] == 100
  features.table = None
  assert zeroshot.ZeroShot('test', 'more').run(features) == {}


def test_features_that_are_all_equal_are_at_chance():
  texts, truth = np.ones((50, 3)), np.arange(50)
  ranks = zeroshot.zeroshot_ranks(np.ones((50, 3)), texts, truth)
  assert (ranks == 0).mean() == 1 / 50
