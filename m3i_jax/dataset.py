"""The data of a run: its source, its tokenizer, its batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from m3i_jax import build, evals, files, processes, specs
from m3i_jax.data import (
  pipeline,
  quarantine,
  sources,
  texts,
  tokenizer,
  vocabulary,
)
from m3i_jax.data.mixture import Mixture
from m3i_jax.data.quarantine import Quarantine
from m3i_jax.errors import UserError
from m3i_jax.objective import Objective


@dataclasses.dataclass
class Data:
  """Where the pictures come from, and how their texts become tokens."""

  source: sources.Source
  tokenizer: vocabulary.Vocabulary | None
  recipe: pipeline.Recipe | None = None
  quarantine: Quarantine = Quarantine()

  @classmethod
  def open(cls, config: ConfigDict, workdir: Path) -> 'Data':
    """Opens the source; reads, or trains and keeps, the tokenizer."""
    source, words = open_split(config, config.data.split), None
    if config.data.text:
      words = _tokenizer(config, source, workdir)
    return cls(
      source, words, quarantine=Quarantine(str(workdir / quarantine.NAME))
    )

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
      quarantine=self.quarantine,
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


@dataclasses.dataclass(frozen=True)
class Ingredient:
  """One of config.data.sources.

  Attributes:
    source: as config.data.source.
    weight: how often it is drawn beside the others, in any unit; 0 only to be
      scored on. Without weights, a source is drawn as its records are many.
    split: of training; '' for config.data.split.
    image, label, text, tags, id: its fields; None for those of config.data
      that it has.
  """

  source: str
  weight: float | None = None
  split: str = ''
  image: str | None = None
  label: str | None = None
  text: str | None = None
  tags: str | None = None
  id: str | None = None


def ingredients(config: ConfigDict) -> dict[str, Ingredient]:
  """config.data.sources, checked; {} for a single source.

  Raises:
    UserError: unknown keys, weights for some only, negative ones.
  """
  found = {
    name: specs.make(Ingredient, entry, f'config.data.sources.{name}')
    for name, entry in config.data.sources.items()
  }
  if not found:
    return found
  where = 'config.data.sources'
  if empty := [name for name, one in found.items() if not one.source]:
    raise UserError(
      f'{where}.{empty[0]}.source is empty: name a directory that '
      'm3i_jax.prepare has written'
    )
  if config.data.source:
    raise UserError(
      f'{where} and config.data.source={config.data.source!r} are both given: '
      "set config.data.source=''"
    )
  if wrong := [name for name in found if '/' in name]:
    raise UserError(f'{where}: the name {wrong[0]!r} has a /: leave it out')
  weights = {name: one.weight for name, one in found.items()}
  drawn = [w for w in weights.values() if w != 0]
  if None in drawn and set(drawn) != {None}:
    raise UserError(f'{where}: give each a weight or none, not {weights}')
  return found


def open_split(config: ConfigDict, split: str) -> sources.Source:
  """A split of the config's data set.

  Args:
    split: of the source; of a mixture config.data.split, or 'SOURCE/SPLIT' for
      one of its sources, whose labels are then its own.
  Raises:
    UserError: no such data set or split; a field that it lacks, with the
      targets that are made of it.
  """
  c, parts = config.data, ingredients(config)
  fields = sources.Fields(c.image, c.label, c.text, c.tags, c.id)
  try:
    if not parts:
      return sources.open_source(c.source, split, fields)
    name, slash, own = split.partition('/')
    if slash and name in parts:
      return _opened(parts[name], own or parts[name].split or c.split, fields)
    if split != c.split:
      raise UserError(
        f'split {split!r} of a mixture: name the source too, such as '
        f'{next(iter(parts))}/{own or split}; there are {", ".join(parts)}'
      )
    return _mixed(parts, c, fields)
  except sources.MissingField as error:
    wanted = [
      f'config.targets.{name}'
      for name, row in config.targets.items()
      if row.of == error.part
    ]
    if not wanted:
      raise
    raise UserError(f'{", ".join(wanted)}: {error}') from error


def _opened(
  one: Ingredient, split: str, fields: sources.Fields
) -> sources.Source:
  """A source; what it does not name itself it may lack."""
  own = {part: getattr(one, part) for part in dataclasses.asdict(fields)}
  given = {part: field for part, field in own.items() if field is not None}
  return sources.open_source(
    one.source, split, dataclasses.replace(fields, **given),
    optional=set(own) - set(given) - {'image'},
  )  # fmt: skip


def _mixed(parts: dict[str, Ingredient], data: ConfigDict, fields) -> Mixture:
  drawn = {name: one for name, one in parts.items() if one.weight != 0}
  opened = {
    name: _opened(one, one.split or data.split, fields)
    for name, one in drawn.items()
  }
  shares = {
    name: len(opened[name]) if one.weight is None else one.weight
    for name, one in drawn.items()
  }
  mixture = Mixture(opened, shares, data.together)
  for part in ('label', 'text'):
    if data[part] and not getattr(mixture.fields, part):
      raise sources.MissingField(
        part, f'none of {", ".join(drawn)} has a field {data[part]!r} ({part})'
      )
  return mixture


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


def _tokenizer(config, source, workdir: Path) -> vocabulary.Vocabulary:
  """The named tokenizer, the run's own, or one trained on the captions."""
  kept = workdir / 'tokenizer.model'
  if config.data.tokenizer:
    path = Path(config.data.tokenizer)
    if not path.exists():
      raise UserError(
        f'config.data.tokenizer={path} does not exist: name a SentencePiece '
        "model, or BERT's vocab.txt, or '' to train one on the captions"
      )
    made = tokenizer.open_tokenizer(path.read_bytes())
    processes.first('tokenizer', lambda: files.write(kept, made.model))
    return made

  def train():
    if kept.exists():
      return
    found = texts.captions(source)
    model = tokenizer.train_tokenizer(found, config.data.vocabulary)
    files.write(kept, model)

  processes.first('tokenizer', train, 6 * 3600.0)  # it reads all captions
  return tokenizer.open_tokenizer(kept.read_bytes())


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
