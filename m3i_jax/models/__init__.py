"""Backbones by name. A backbone maps (image, cells) to a dict with 'tokens'."""

from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.models import vit

BACKBONES = {'vit': (vit.ViT, vit.VARIANTS)}


def backbone(name: str, variant: str = '', **fields: Any):
  """The backbone `name`, `variant` filling the sizes that `fields` leave out.

  Raises:
    UserError: unknown name or variant, or a size that neither gives.
  """
  if name not in BACKBONES:
    raise UserError(
      f'config.model.name={name!r}: choose from {sorted(BACKBONES)}'
    )
  cls, variants = BACKBONES[name]
  if variant:
    if variant not in variants:
      raise UserError(
        f'config.model.variant={variant!r}: choose from {list(variants)}'
      )
    sizes = ('width', 'depth', 'heads', 'hidden', 'patch')
    fields = dict(zip(sizes, variants[variant], strict=True)) | fields
  return cls(**fields)
