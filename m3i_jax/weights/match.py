"""Whether the network of a file is that of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.models.text import TextTower
from m3i_jax.weights import adapt

# What may differ: ends that are left out or start fresh, and tables of another
# size. LayerScale's number is only what it starts from.
FREE = (
  'parent', 'name', 'class_token', 'positions', 'final_norm', 'pooling',
  'num_classes', 'fused', 'use_clip_projector', 'layer_scale', 'vocabulary',
  'pool', 'projection', *adapt.COMPUTED,
)  # fmt: skip


def same(where: str, model: Mapping, module: Any, config: str) -> None:
  """Raises UserError where a file's network computes something else.

  Args:
    where: the key and the file, for the message.
    model: what the file says of itself.
    module: the encoder, or a `representations.TextEmbedding`.
    config: the key of the module.
  """
  text = model['name'] == 'text'
  there = _tower(model) if text else adapt.module(model, {})
  if not text and type(there) is not type(module):
    raise UserError(
      f'{where} holds a {model["name"]}, and {config}.name is another: make it '
      f'{model["name"]!r}'
    )
  for field in dataclasses.fields(there):
    if field.name in FREE:
      continue
    found = getattr(there, field.name)
    here = getattr(module, field.name, field.default)
    if found != here:
      raise UserError(
        f'{where} has {field.name}={found!r}, and {config} {here!r}: make them '
        'equal'
      )
  scaled = [bool(getattr(x, 'layer_scale', 0)) for x in (there, module)]
  if scaled[0] != scaled[1]:
    raise UserError(
      f'{where} has {"a" if scaled[0] else "no"} LayerScale: set '
      f'{config}.layer_scale={1e-5 if scaled[0] else 0.0}'
    )


def _tower(model: Mapping[str, Any]) -> TextTower:
  names = {x.name for x in dataclasses.fields(TextTower)}
  return TextTower(**{k: v for k, v in model.items() if k in names - {'name'}})
