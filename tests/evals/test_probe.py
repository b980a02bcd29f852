"""The probe against the normal equations with an explicit bias column."""

import numpy as np
import pytest

from m3i_jax.errors import UserError
from m3i_jax.evals import probe
from tests.evals.fakes import Arrays


def problem(n, seed=0, noise=1.0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 4, n)
  x = rng.normal(size=(n, 6)) * noise + 3 * np.eye(6)[label]
  return x * [1, 10, 0.1, 1, 5, 1] + 7, label


def test_fit_matches_the_normal_equations(monkeypatch):
  monkeypatch.setattr(probe, '_CHUNK', 17)
  x, label = problem(80)
  fit = probe.fit_ridge(x, label, (0.01, 2.0))
  z = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((80, 1))], 1)
  for ridge, weights in zip((0.01, 2.0), fit.weights, strict=True):
    penalty = 80 * ridge * np.diag([1, 1, 1, 1, 1, 1, 0])
    want = np.linalg.solve(z.T @ z + penalty, z.T @ np.eye(4)[label])
    np.testing.assert_allclose(weights, want[:-1], atol=1e-12)
    np.testing.assert_allclose(fit.bias, want[-1], atol=1e-12)


def test_more_dimensions_than_pictures_and_constant_ones():
  x, label = problem(20)
  x = np.concatenate([x, np.full((20, 30), 5.0), x**2], 1)
  fit = probe.fit_ridge(x, label, (1e-3,))
  ranks = probe.probe_ranks(fit, x, label)
  assert np.isfinite(fit.weights).all() and (ranks == 0).mean() == 1


def test_groups_are_held_out_whole_and_stay_so():
  groups = np.array([f'family {i % 50}' for i in range(400)])
  chosen = probe.held_out(groups)
  assert 0.1 < chosen.mean() < 0.3
  assert not set(groups[chosen]) & set(groups[~chosen])
  shuffled = np.random.default_rng(0).permutation(400)
  np.testing.assert_array_equal(
    probe.held_out(groups[shuffled]), chosen[shuffled]
  )


def test_one_group_cannot_be_split():
  with pytest.raises(UserError, match='split_by'):
    probe.held_out(np.array(['only'] * 9))


def test_the_ridge_is_the_best_on_the_held_out_fifth():
  x, label = problem(300, noise=3.0)
  validates = np.arange(300) % 5 == 0
  ridges = (1e-4, 0.3, 1e3)
  hits = []
  for ridge in ridges:
    fit = probe.fit_ridge(x[~validates], label[~validates], (ridge,))
    hits.append((probe.probe_ranks(fit, x[validates], label[validates]) == 0)
                .sum())
  best = max(r for r, h in zip(ridges, hits, strict=True) if h == max(hits))
  assert probe.choose_ridge(x, label, validates, ridges) == best


def test_test_pictures_choose_nothing(monkeypatch):
  chosen = []
  real = probe.choose_ridge
  monkeypatch.setattr(
    probe, 'choose_ridge', lambda *a: chosen.append(real(*a)) or chosen[-1]
  )
  x, label = problem(200, noise=3.0)
  rng = np.random.default_rng(1)
  for test in (x, rng.normal(size=x.shape)):
    fields = {'kind': label, 'concept': np.arange(200)}
    features = Arrays(
      {'train': x, 'test': test}, {'train': fields, 'test': fields}
    )
    probe.Probe('train', 'test', 'kind').run(features)
  assert chosen[0] == chosen[1]


def test_metrics_by_hand():
  features = Arrays(
    {'train': [[-1], [1]] * 10, 'test': [[-2], [3], [4], [9]]},
    {
      'train': {'kind': ['a', 'b'] * 10, 'id': np.arange(20) // 2},
      'test': {'kind': ['a', 'b', 'a', 'new']},
    },
  )
  found = probe.Probe('train', 'test', 'kind', split_by='id').run(features)
  assert found == pytest.approx(
    {'top1': 50, 'top1_se': 25, 'top1_chance': 50}
  )
