"""Which family a file is of, and what its config.json says beside the shapes.

Shapes do not tell the number of heads, the epsilon of the norms, or the
activation.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.models import vit

Config = dict[str, Any]

ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'quick_gelu': 'quick_gelu',
}
MODEL_TYPES = {
  'vit': 'hf_vit',
  'vit_mae': 'hf_vitmae',
  'dinov2': 'hf_dinov2',
  'siglip': 'hf_siglip',
  'siglip_vision_model': 'hf_siglip',
  'bert': 'hf_bert',
  'clip': 'hf_clip_text',
  'clip_text_model': 'hf_clip_text',
}
# The first whose pattern begins some name.
MARKS = (
  ('internimage', r'levels\.0\.blocks\.0\.dcn\.'),
  ('timm_convnext', r'stages\.0\.blocks\.0\.conv_dw\.'),
  ('mmseg', r'(backbone\.)?layers\.0\.ln1\.'),
  ('mae', r'decoder_blocks\.0\.|mask_token$'),
  ('detectron2', r'backbone\.net\.|blocks\.0\.attn\.rel_pos_h'),
  ('hf_vitmae', r'decoder\.decoder_layers\.0\.'),
  ('hf_dinov2', r'(\w+\.)?encoder\.layer\.0\.layer_scale1\.'),
  ('hf_vit', r'(\w+\.)?encoder\.layer\.0\.attention\.attention\.'),
  ('hf_bert', r'(\w+\.)?encoder\.layer\.0\.attention\.self\.'),
  ('hf_siglip', r'(vision_model\.)?head\.probe'),
  ('hf_clip_text', r'(text_model\.)?embeddings\.token_embedding\.'),
  ('hf_siglip', r'(vision_model\.)?encoder\.layers\.0\.self_attn\.'),
  ('timm_vit', r'blocks\.0\.attn\.qkv\.'),
)
# Heads of the sizes that are not 64 wide each, by (width, depth).
HEADS = {(1152, 27): 16} | {  # SigLIP so400m
  (x['width'], x['depth']): x['heads'] for x in vit.VARIANTS.values()
}


def guess(config: Mapping, names: Iterable[str]) -> str:
  """The family of a file by its config.json or, without one, by its names.

  Raises:
    UserError: it is none that is known.
  """
  architecture = str(config.get('architecture', ''))
  if architecture.startswith(('vit_', 'deit_')):
    return 'timm_vit'
  if architecture.startswith('convnext'):
    return 'timm_convnext'
  names, told = list(map(str, names)), config.get('model_type')
  if str(told) in MODEL_TYPES:
    return MODEL_TYPES[str(told)]
  # A DINOv2 file has a mask token, too, but other names beside it.
  for family, pattern in MARKS:
    if told is None and any(re.match(pattern, name) for name in names):
      return family
  kind = f' of model_type {told!r}' if told else ''
  raise UserError(
    f'these weights{kind} are of no family that is known (they begin with '
    f'{", ".join(sorted(names)[:3])}): name one by --from'
  )


def given(config: Mapping) -> dict[str, Any]:
  """What config.json says beside the shapes: heads, eps, activation."""
  if 'architecture' in config:
    return _timm_given(config)
  half = {'siglip': 'vision_config', 'clip': 'text_config'}.get(
    str(config.get('model_type')), ''
  )
  config = _part(config, half) if half in config else config
  told = {
    ours: config[theirs]
    for theirs, ours in (
      ('num_attention_heads', 'heads'), ('layer_norm_eps', 'eps'),
    )
    if config.get(theirs) is not None
  }  # fmt: skip
  if act := config.get('hidden_act'):
    act = str(act)
    if act not in ACTIVATIONS:
      raise UserError(
        f'config.json: hidden_act {act!r} is none of {", ".join(ACTIVATIONS)}'
      )
    told['activation'] = ACTIVATIONS[act]
  return told


def heads(params: Mapping) -> int:
  """Of a ViT of a known size whose heads are not 64 wide; 0 of others."""
  if 'patch_embed' not in params or 'blocks' not in params:
    return 0
  scale = params['blocks']['layers']['norm1']['scale']
  return HEADS.get(scale.shape[::-1], 0)


def _part(config: Mapping, key: str) -> Config:
  """An object in config.json; {} if there is none."""
  part = config.get(key) or {}
  if not isinstance(part, dict):
    raise UserError(f'config.json: {key} is no object')
  return part


def _timm_given(config: Mapping) -> dict[str, Any]:
  args = _part(config, 'model_args')
  told = {}
  if 'num_heads' in args:
    told['heads'] = args['num_heads']
  act = args.get('act_layer')
  if act is None:
    name = str(config['architecture'])
    act = {'siglip': 'gelu_tanh', 'quickgelu': 'quick_gelu'}.get(
      next((k for k in ('siglip', 'quickgelu') if k in name), ''), 'gelu'
    )
  if str(act) not in ACTIVATIONS.values():
    raise UserError(f'config.json: act_layer {act!r} is not known')
  if act != 'gelu':
    told['activation'] = act
  return told
