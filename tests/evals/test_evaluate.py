"""The table of evaluators and how their metrics are named."""

import numpy as np

from m3i_jax import evals
from tests.evals.fakes import Arrays


def test_every_evaluator_runs_and_explains_itself():
  rng = np.random.default_rng(0)
  field = [f'c{i % 4}' for i in range(60)]
  fields = {'caption': field, 'concept': np.arange(60)}
  features = Arrays(
    {'train': rng.normal(size=(60, 8)), 'test': rng.normal(size=(60, 8))},
    {'train': fields, 'test': fields},
    {name: rng.normal(size=8) for name in set(field)},
  )
  chosen = {
    'near': evals.EVALUATORS['knn']('train', 'test', 'caption'),
    'line': evals.EVALUATORS['probe']('train', 'test', 'caption'),
    'text': evals.EVALUATORS['zeroshot']('test', ('train', 'test')),
  }
  found = evals.evaluate(chosen, features)
  assert set(found) >= {'near/top1', 'line/top1', 'text/top1', 'text/top5'}
  assert all(0 <= value <= 100 for value in found.values())
  told = evals.explain(chosen)
  assert 'train + test' in told['text'] and '20 pictures' in told['near']
