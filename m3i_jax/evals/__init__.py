"""How good are the features? Evaluators that share one protocol.

An evaluator is a frozen dataclass whose `run(features)` returns metrics in
percent; `Features` hands it arrays, so that it never meets a model. A fourth
evaluator is one more dataclass and one more row of `EVALUATORS`.
"""

from collections.abc import Mapping
from typing import Protocol

from m3i_jax.evals.features import (
  EncodedFeatures,
  Features,
  PixelFeatures,
  field_of,
)
from m3i_jax.evals.knn import Knn
from m3i_jax.evals.probe import Probe
from m3i_jax.evals.tables import markdown_table, table
from m3i_jax.evals.zeroshot import ZeroShot

__all__ = [
  'EVALUATORS', 'EncodedFeatures', 'Evaluator', 'Features', 'Knn',
  'PixelFeatures', 'Probe', 'ZeroShot', 'evaluate', 'explain', 'field_of',
  'markdown_table', 'table',
]


class Evaluator(Protocol):
  """Scores features; {} where it cannot, such as zero-shot without text."""

  def run(self, features: Features) -> dict[str, float]:
    """Metrics in percent; `x_se`, `x_chance` belong to the metric `x`."""

  def explain(self) -> str:
    """One sentence for the reader of a table."""

  def reads(self) -> list[tuple[str, str]]:
    """(split, field) pairs that must be there."""


EVALUATORS = {'knn': Knn, 'probe': Probe, 'zeroshot': ZeroShot}


def evaluate(
    evaluators: Mapping[str, Evaluator], features: Features
) -> dict[str, float]:
  """Runs every evaluator: {'NAME/METRIC': percent}."""
  return {
    f'{name}/{metric}': value
    for name, evaluator in evaluators.items()
    for metric, value in evaluator.run(features).items()
  }


def explain(evaluators: Mapping[str, Evaluator]) -> dict[str, str]:
  """One sentence for each evaluator, by name."""
  return {name: evaluator.explain() for name, evaluator in evaluators.items()}
