"""The data of a run: its source, its tokenizer, its batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from m3i_jax import build, evals, files, processes
from m3i_jax.data import pipeline, sources, tokenizer
from m3i_jax.errors import UserError
from m3i_jax.objective import Objective


@dataclasses.dataclass
class Data:
  """Where the pictures come from, and how their texts become tokens."""

  source: sources.Source
  tokenizer: tokenizer.Tokenizer | None
  recipe: pipeline.Recipe | None = None

  @classmethod
  def open(cls, config: ConfigDict, workdir: Path) -> 'Data':
    """Opens the source; reads, or trains and keeps, the tokenizer."""
    source = open_split(config, config.data.split)
    if not config.data.text:
      return cls(source, None)
    return cls(source, _tokenizer(config, source, workdir))

  def batches(
    self, config: ConfigDict, start: int, rows: np.ndarray, passed: int = 0
  ) -> Iterator[dict[str, Any]]:
    """The global batches' local rows from step `start` to the last.

    passed: batches of the order that rollbacks have passed over.
    """
    return pipeline.loader(
      self.source,
      self.recipe,
      seed=config.seed,
      batch_size=config.batch_size,
      start_step=start + passed,
      stop_step=config.total_steps + passed,
      local=rows,
      threads=config.data.threads or None,
      workers=config.data.workers,
    )

  def pictures(
    self, config: ConfigDict, position: int, rows: Sequence[int]
  ) -> list[str]:
    """Ids of the records in some rows of the batch at a position."""
    start = position * config.batch_size
    made = (
      pipeline.sample(self.source, config.seed, start + row, self.recipe)
      for row in rows
    )
    return [str(self.source[int(row['record'])]['id']) for row in made]


def open_split(config: ConfigDict, split: str) -> sources.Source:
  """A split of the config's data set.

  Raises:
    UserError: no such data set or split; a field that it lacks, with the
      targets that are made of it.
  """
  c = config.data
  fields = sources.Fields(c.image, c.label, c.text, c.tags, c.id)
  try:
    return sources.open_source(c.source, split, fields)
  except sources.MissingField as error:
    wanted = [
      f'config.targets.{name}'
      for name, row in config.targets.items()
      if row.of == error.part
    ]
    if not wanted:
      raise
    raise UserError(f'{", ".join(wanted)}: {error}') from error


def check_splits(config: ConfigDict, evaluators: dict) -> None:
  """Opens what evaluators and panel will need, before the first step.

  Raises:
    UserError: a split or a field that the data set lacks.
  """
  needed = {config.panel.split or config.data.split: set()}
  for evaluator in evaluators.values():
    for split, field in evaluator.reads():
      needed.setdefault(split, set()).add(field)
  for split, fields in needed.items():
    record = open_split(config, split)[0]
    for field in fields:
      evals.field_of(record, field, split)


def _tokenizer(config, source, workdir: Path) -> tokenizer.Tokenizer:
  """The named tokenizer, the run's own, or one trained on the captions."""
  kept = workdir / 'tokenizer.model'
  if config.data.tokenizer:
    path = Path(config.data.tokenizer)
    if not path.exists():
      raise UserError(
        f'config.data.tokenizer={path} does not exist: name a SentencePiece '
        "model, or '' to train one on the captions"
      )
    made = tokenizer.Tokenizer(path.read_bytes())
    processes.first('tokenizer', lambda: files.write(kept, made.model))
    return made

  def train():
    if kept.exists():
      return
    found = set()
    for index in range(len(source)):
      record = source[index]
      found |= {*record['text'], *record['tags']}
    model = tokenizer.train_tokenizer(sorted(found), config.data.vocabulary)
    files.write(kept, model)

  processes.first('tokenizer', train, 6 * 3600.0)  # it reads all captions
  return tokenizer.Tokenizer(kept.read_bytes())


def recipe(
  config: ConfigDict, objective: Objective, data: Data
) -> pipeline.Recipe:
  """What the objective wants of a record."""
  words = None
  if objective.reading('text'):
    c = config.data
    words = pipeline.Text(
      data.tokenizer, c.text_length, c.tags_probability, c.max_tags
    )
  return pipeline.Recipe(
    build.crops(config, objective.view_letters),
    label=bool(objective.reading('label')),
    text=words,
  )
