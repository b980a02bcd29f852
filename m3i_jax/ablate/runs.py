"""What an ablation's finished runs left in their directories."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from m3i_jax import checkpoint, metrics

BASELINES = ('raw pixels', 'untrained')


class Spread(NamedTuple):
  """A number over seeds."""

  mean: float
  low: float
  high: float
  seeds: int

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Spread':
    return cls(float(np.mean(values)), min(values), max(values), len(values))

  def beyond(self, other: 'Spread') -> bool:
    """Every seed of this one lies above every seed of the other."""
    return min(self.seeds, other.seeds) > 1 and self.low > other.high


@dataclasses.dataclass(frozen=True)
class Run:
  """One finished run of a row."""

  scores: dict[str, float]  # percent, with `_se` and `_chance`
  baselines: dict[str, dict[str, float]]
  about: dict[str, str]  # a sentence by evaluator
  method: tuple[str, str]  # input, targets
  images: int
  seconds: float  # of training steps: no compiling, no evaluation
  parameters: tuple[int, int]  # of the encoder, of all that is trained


@dataclasses.dataclass(frozen=True)
class Row:
  """A method, or a baseline, and its runs."""

  name: str
  title: str
  letter: str
  family: str
  paper: float
  runs: list[Run]
  scores: dict[str, Spread]


def finished(directory: Path) -> bool:
  """A run writes its results, and then its report."""
  return all((directory / x).exists() for x in ('results.json', 'report.html'))


def read_run(directory: Path) -> Run:
  """A finished run."""
  results = json.loads((directory / 'results.json').read_text())
  config = json.loads((directory / 'config.json').read_text())
  rows = dict(results['rows'])
  params = checkpoint.restore_params(str(directory))
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  return Run(
    rows['trained'],
    {name: rows[name] for name in BASELINES if name in rows},
    results['about'],
    describe(config),
    config['total_steps'] * config['batch_size'],
    training_seconds(metrics.read(directory)),
    (count(params['encoder']), count(params)),
  )


def training_seconds(history: Iterable[Mapping[str, Any]]) -> float:
  """The sum of the steps' times; a line tells the mean since the one before."""
  total, last = 0.0, 0
  for line in history:
    total += (line['step'] - last) * line['step_ms'] / 1e3
    last = line['step']
  return total


def describe(config: Mapping[str, Any]) -> tuple[str, str]:
  """What the encoder sees, and what is predicted: ('75 % hidden', ...)."""
  seen = config['input']
  words = []
  if seen['images'] == 2:
    words.append('two mixed')
  elif seen['mask']:
    words.append(f'{100 * seen["mask"]:.0f} % hidden')
  asked = []
  for target in config['targets'].values():
    z = target['representation']
    kind = z if isinstance(z, str) else z['kind']
    if target['of'] not in ('label', 'text'):
      other = target['of'] != seen['view']
      kind = f'{"other" if other else "own"} view: {kind}'
    asked.append(kind)
  return ', '.join(words) or 'full', '; '.join(dict.fromkeys(asked))


def collect(ablation: ConfigDict, runs: Mapping[tuple[str, int], Run]):
  """(rows in the config's order, baselines), as far as runs have finished."""
  rows = []
  for name, about in ablation.rows.items():
    own = [run for (row, _), run in runs.items() if row == name]
    if own:
      scores = over_seeds([run.scores for run in own])
      rows.append(
        Row(name, about.title, about.letter, about.family, about.paper, own,
            scores)
      )  # fmt: skip
  baselines = []
  for name in BASELINES:
    # Of a seed's runs the first: their untrained encoders are the same.
    first: dict[int, dict[str, float]] = {}
    for (_, seed), run in runs.items():
      if name in run.baselines:
        first.setdefault(seed, run.baselines[name])
    scores = over_seeds(list(first.values()))
    baselines.append(Row(name, name, '', 'baseline', 0.0, [], scores))
  return rows, baselines


def over_seeds(scores: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
  """The metrics that one seed has, over all seeds."""
  return {
    key: Spread.of([one[key] for one in scores])
    for key in (scores[0] if scores else ())
  }
