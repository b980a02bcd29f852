"""The first pictures of a run exactly as its first step will have them."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from m3i_jax import showcase
from m3i_jax.data import pictures, pipeline, sources
from m3i_jax.data.vocabulary import PAD
from m3i_jax.objective import Objective
from m3i_jax.report.data_page import Box, Example
from m3i_jax.report.panel import Panel

SIDE = 480  # pixels of a shown picture, at most
_WHOLE = 1024  # pieces: hardly a caption is longer


def first_batch(
  config: ConfigDict, objective: Objective, source: sources.Source,
  recipe: pipeline.Recipe, count: int,
) -> tuple[Panel, list[Example]]:  # fmt: skip
  """The first rows of the first batch, crops, colours and masks drawn.

  count: of rows, even if two pictures are mixed.
  """
  rows = [
    pipeline.sample(source, config.seed, position, recipe)
    for position in range(count)
  ]
  batch = jax.tree.map(lambda *x: np.stack(x), *rows)
  # No target encoder is needed to see what it is shown.
  nothing = dict.fromkeys(('ema', 'frozen'), lambda images: images)

  @jax.jit
  def draw(batch):
    sample = objective.sample(batch, nothing, first_key(config.seed))
    return sample.replace(y={})

  panel = showcase.seen(objective, jax.device_get(draw(batch)), {})
  examples = [
    _example(row, source, whole)
    for row, whole in zip(
      rows, _whole_texts(config, source, recipe, count), strict=True
    )
  ]
  return panel, examples


def first_key(seed: int) -> jax.Array:
  """What the first step draws its samples with, as `make_train_step` has it."""
  key = jax.random.fold_in(jax.random.key(seed), 0)
  return jax.random.split(key)[0]


def _whole_texts(config, source, recipe, count: int) -> list[list[str]]:
  """The pieces of each row's caption; none of them cut."""
  if recipe.text is None:
    return [[]] * count
  text = dataclasses.replace(recipe.text, length=_WHOLE)
  longer = dataclasses.replace(recipe, text=text)
  found = []
  for position in range(count):
    row = pipeline.sample(source, config.seed, position, longer)
    ids = row['text'][row['text'] != PAD]
    found.append([text.tokenizer.name(int(i)) for i in ids])
  return found


def _example(
  row: dict[str, Any], source: sources.Source, whole: list[str]
) -> Example:
  record = source[int(row['record'])]
  picture = pictures.decode(record['image'])
  height, width = picture.shape[:2]
  shown = Image.fromarray(picture)
  shown.thumbnail((SIDE, SIDE))
  # Of a caption that is cut, the last piece that is seen is EOS.
  cut = int((row['text'] != PAD).sum()) - 1 if whole else 0
  label = int(row.get('label', -1))
  return Example(
    id=record['id'],
    record=int(row['record']),
    replaced=bool(row['replaced']),
    picture=np.asarray(shown),
    size=(width, height),
    boxes={
      name: Box.of(row[name]['box'], bool(row[name]['flip']))
      for name in ('a', 'b')
      if name in row
    },
    label=source.classes[label] if label >= 0 else '',
    captions=tuple(record['text']),
    tags=tuple(record['tags']),
    seen=whole[:cut] + whole[-1:],
    lost=whole[cut:-1],
  )
