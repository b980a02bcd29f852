"""Backbones by name. A backbone maps (image, cells) to a dict with 'tokens'.

Beside its fields it tells `width` D of its tokens; `patch`, the side of a
token's cell in pixels; `stride`, what an image's side must be a multiple of;
`depth`, of how many last blocks it can give the mean; `class_token`; and
`whole`, that it needs all cells of an image, hidden ones filled.
"""

import dataclasses
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.models import convnext, internimage, vit

BACKBONES = {
  'vit': vit.ViT,
  'convnext': convnext.ConvNeXt,
  'internimage': internimage.InternImage,
}
VARIANTS = {
  'vit': vit.VARIANTS,
  'convnext': convnext.VARIANTS,
  'internimage': internimage.VARIANTS,
}
# Of the smallest that has all its parts, and compiles soonest.
TINY = {
  'vit': dict(width=32, depth=2, heads=2, hidden=64, patch=8),
  'convnext': dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64), fused=32),
  'internimage': dict(
    channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8), fused=32,
    level2_post_norm_block_ids=(1,), impl='onehot',
  ),
}  # fmt: skip


def backbone(name: str, variant: str = '', **fields: Any):
  """The backbone `name`: BACKBONES[name](**settled(name, variant, fields))."""
  return BACKBONES[known(name)](**settled(name, variant, fields))


def settled(name: str, variant: str, fields: dict[str, Any]) -> dict[str, Any]:
  """The fields with the variant's where they are left at their defaults.

  Raises:
    UserError: unknown name or variant, or a size that neither gives.
  """
  chosen, defaults = {}, default(name)
  if variant:
    if variant not in VARIANTS[name]:
      raise UserError(
        f'config.model.variant={variant!r}: choose from {list(VARIANTS[name])}'
      )
    chosen = VARIANTS[name][variant]
  fields = {k: tuple(v) if isinstance(v, list) else v
            for k, v in fields.items()}  # fmt: skip
  merged = chosen | {
    k: v for k, v in fields.items() if k not in chosen or v != defaults[k]
  }
  for k in required(name):
    if not merged.get(k):
      raise UserError(
        f'config.model.{k} is missing: give it, or config.model.variant'
      )
  return merged


def default(name: str) -> dict[str, Any]:
  """Every field of a backbone; a size that has no default is 0."""
  empty = dict.fromkeys(required(name), 0)
  fields = dataclasses.fields(BACKBONES[known(name)])
  return empty | {
    f.name: f.default
    for f in fields
    if f.default is not dataclasses.MISSING and f.name not in ('parent', 'name')
  }


def required(name: str) -> list[str]:
  """The sizes that have no default."""
  return [
    f.name
    for f in dataclasses.fields(BACKBONES[known(name)])
    if f.init and f.name not in ('parent', 'name')
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]  # fmt: skip


def known(name: str) -> str:
  """The name; UserError if no backbone has it."""
  if name not in BACKBONES:
    raise UserError(
      f'config.model.name={name!r}: choose from {sorted(BACKBONES)}'
    )
  return name
