"""k-NN against a loop over pictures, and cases made by hand."""

import numpy as np
import pytest

from m3i_jax.evals import knn
from tests.evals.fakes import Arrays


def brute_force(train, label, test, k, temperature):
  """Class scores of each test picture by a plain loop."""
  mean = train.astype(np.float64).mean(0)
  out = []
  for query in test:
    q = query - mean
    cos = np.array([
      q @ (t - mean) / np.linalg.norm(q) / np.linalg.norm(t - mean)
      for t in train
    ])
    scores = {}
    for i in sorted(range(len(train)), key=lambda i: -cos[i])[:k]:
      scores[label[i]] = scores.get(label[i], 0) + np.exp(cos[i] / temperature)
    out.append(sorted(scores, key=lambda c: -scores[c]))
  return out


@pytest.mark.parametrize('k', [3, 20])
def test_ranks_match_a_loop(k):
  rng = np.random.default_rng(0)
  train, test = rng.normal(size=(90, 7)), rng.normal(size=(300, 7))
  label, truth = rng.integers(0, 9, 90), rng.integers(0, 9, 300)
  label[:9] = np.arange(9)
  found = knn.knn_ranks(train, label, test, truth, k, 0.07)
  order = brute_force(train, label, test, k, 0.07)
  want = [
    o.index(t) if t in o else 9 for o, t in zip(order, truth, strict=True)
  ]
  np.testing.assert_array_equal(found, want)


def test_one_neighbour_ranks_distinct_classes():
  rng = np.random.default_rng(1)
  train, test = rng.normal(size=(60, 5)), rng.normal(size=(40, 5))
  label, truth = np.repeat(np.arange(20), 3), rng.integers(0, 20, 40)
  center = train.mean(0)
  unit = (train - center) / np.linalg.norm(train - center, axis=1)[:, None]
  nearest = np.argsort(-(test - center) @ unit.T, axis=1)
  order = [list(dict.fromkeys(label[row])) for row in nearest]
  found = knn.knn_ranks(train, label, test, truth, 1, 0.07)
  np.testing.assert_array_equal(
    found, [o.index(t) for o, t in zip(order, truth, strict=True)]
  )


def test_neighbours_that_tie_are_the_first():
  similarity = np.array([[0.5, 0.9, 0.5, 0.5, 0.1]])
  np.testing.assert_array_equal(knn.nearest(similarity, 3), [[0, 1, 2]])
  np.testing.assert_array_equal(knn.nearest(similarity, 9), [np.arange(5)])


def test_a_class_without_votes_is_a_miss():
  train = np.array([[1, 0], [0.9, 0.1], [-1, 0], [-0.9, -0.1]])
  found = knn.knn_ranks(
    train, np.array([0, 0, 1, 1]), np.array([[1.0, 0]] * 3),
    np.array([0, 1, -1]), 2, 0.07,
  )
  np.testing.assert_array_equal(found, [0, 2, 2])


def test_metrics_by_hand():
  features = Arrays(
    {'train': [[1, 0], [0, 1], [-1, -1]], 'test': [[2, 0], [0, 3], [0, 2]]},
    {
      'train': {'kind': ['cat', 'dog', 'dog']},
      'test': {'kind': ['cat', 'dog', 'bird']},
    },
  )
  assert knn.Knn('train', 'test', 'kind', k=1).run(features) == pytest.approx({
    'top1': 200 / 3, 'top1_se': 100 * np.sqrt(2 / 27), 'top1_chance': 100 / 3
  })


def test_top5_from_a_hundred_classes_on():
  points = np.stack([np.cos(np.arange(200)), np.sin(np.arange(200))], 1)
  fields = {'id': np.arange(200)}
  features = Arrays({'a': points, 'b': points}, {'a': fields, 'b': fields})
  found = knn.Knn('a', 'b', 'id', k=1).run(features)
  assert found['top1'] == found['top5'] == 100
  assert found['top5_chance'] == 2.5
