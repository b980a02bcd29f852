"""What a run shows of its encoder: scores on the way, table and report."""

import json
from collections.abc import Callable
from pathlib import Path

import jax

from m3i_jax import config as schema
from m3i_jax import dataset, evals, metrics, report, showcase
from m3i_jax.program import Program
from m3i_jax.step import TrainState


class Scoring:
  """Of one run; every process calls it alike, process 0 prints and writes."""

  def __init__(
    self,
    program: Program,
    workdir: Path,
    data: dataset.Data,
    evaluators: dict,
    alive: Callable[[], None],
  ):
    """alive: called with each batch that is encoded, for the watchdog."""
    self.program, self.config = program, program.config
    self.workdir, self.data = workdir, data
    self.evaluators, self.alive = evaluators, alive
    self.seen = showcase.Encoders(
      program.config, program.objective, data.tokenizer, program.mesh
    )
    self.features = None
    self.last = {}  # {steps done: scores}, the newest

  def on_the_way(self, params, done: int, say) -> dict[str, float]:
    """Scores of the online encoder as metrics; `say` prints a line of them."""
    scores = self.scores(params)
    self.last = {done: scores}
    if scores and done < self.config.total_steps:
      told = (
        f'{k.replace("/top1", "").replace("_", " ")} {v:.1f}'
        for k, v in scores.items()
        if k.endswith('top1')
      )
      say(f'step {done}: {", ".join(told)}')
    return {f'eval/{k}': v for k, v in scores.items()}

  def scores(self, params) -> dict[str, float]:
    """The evaluators' metrics in percent for these parameters."""
    if not self.evaluators:
      return {}
    encode = [self._watched(f) for f in self.seen.of(params)]
    if self.features is None:
      self.features = evals.EncodedFeatures(
        *encode, lambda split: dataset.open_split(self.config, split),
        self.config.image_size, min(256, self.config.batch_size),
      )  # fmt: skip
    return evals.evaluate(
      self.evaluators, self.features.with_encoders(*encode)
    )

  def _watched(self, encode):
    def watched(batch):
      self.alive()
      return encode(batch)

    return encode and watched

  def finish(self, state: TrainState) -> None:
    """The final table and the report."""
    rows, panel = self._rows(state), None
    if self.config.panel.examples:
      split = self.config.panel.split or self.config.data.split
      panel = self.seen.panel(
        state, dataset.open_split(self.config, split), self.data.recipe,
        self.data.source.classes,
      )  # fmt: skip
    if jax.process_index():
      return
    if rows:
      print(evals.table(rows))
      for name, line in evals.explain(self.evaluators).items():
        print(f'  {name.replace("_", " ")}: {line}')
    path = report.write_report(
      self.workdir,
      metrics.read(self.workdir),
      rows,
      panel,
      json.dumps(schema.as_json(self.config), indent=2),
      f'm3i_jax: {self.workdir.name}',
      evals.explain(self.evaluators),
    )
    print(f'report: {path}')

  def _rows(self, state: TrainState) -> dict[str, dict[str, float]]:
    """The final scores, beside those of what was not trained."""
    if not self.evaluators:
      return {}
    pixels = evals.PixelFeatures(
      lambda split: dataset.open_split(self.config, split)
    )
    done = self.last.get(self.config.total_steps)
    rows = {
      'raw pixels': evals.evaluate(self.evaluators, pixels),
      'untrained': self.scores(self.program.params()),
      'trained': done or self.scores(state.params),
    }
    if state.ema:
      rows['EMA'] = self.scores(state.params | state.ema)
    return rows
