"""What a target format always has, or has no place for.

A ViT of M3I ends without a norm and without a head, and its positions may be
fixed; Hugging Face's ViT always has a class token, a norm and a table. What can
be said exactly is added; what cannot is refused, or told in a note.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from m3i_jax import models, positions
from m3i_jax.errors import UserError
from m3i_jax.models.text import TextTower
from m3i_jax.weights import resize

Params = dict[str, Any]

COMPUTED = ('dtype', 'drop_path', 'uniform', 'unroll', 'remat', 'impl')

KINDS = {
  'vit': (
    'timm_vit', 'mae', 'hf_vit', 'hf_vitmae', 'hf_dinov2', 'hf_siglip',
    'detectron2', 'mmseg',
  ),
  'convnext': ('timm_convnext',),
  'internimage': ('internimage',),
  'text': ('hf_bert', 'hf_clip_text'),
}  # fmt: skip
NORMED = ('mae', 'hf_vit', 'hf_vitmae', 'hf_dinov2', 'hf_siglip')
RESIZING = ('detectron2', 'mmseg')  # positions, when they load them
CLASSED = ('mae', 'hf_vit', 'hf_vitmae', 'hf_dinov2')
SCALED = ('timm_vit', 'hf_dinov2', 'mmseg')
ONE_EPS = {'timm_vit': 1e-6, 'mae': 1e-6, 'detectron2': 1e-6, 'mmseg': 1e-6}
EXACT_GELU = ('mae', 'detectron2', 'mmseg')
# What pools a ViT, and where that can be said.
POOLED = {
  'attn_pool': ('timm_vit', 'hf_siglip'),
  'fc_norm': ('timm_vit',),
  'mask_token': ('hf_dinov2',),
}
CLASSIFIED = {
  'timm_vit': ('cls', 'mean', 'map'), 'mae': ('cls',), 'hf_vit': ('cls',)
}  # fmt: skip


def adapt(
  family: str, name: str, net: Any, params: Params, size: int
) -> tuple[Any, Params, list[str]]:
  """A network as the format has it, and what is to be known of it.

  Args:
    name: of the model: 'vit', 'convnext', 'internimage' or 'text'.
    net: its module.
    size: of its pictures, in pixels.
  Returns:
    The module, the parameters, and a line for each thing that differs.
  Raises:
    UserError: the format cannot hold such a network.
  """
  if family not in KINDS[name]:
    raise UserError(
      f'--to {family} cannot hold a {name}: choose from '
      f'{", ".join(KINDS[name])}'
    )
  params = dict(params)
  if name == 'vit':
    return _vit(family, net, params, size)
  if name == 'text':
    return net, params, _text(family, net, params)
  notes = []
  if family == 'timm_convnext' and params.pop('fuse', None):
    notes.append('the layers that fuse the last two maps have no place there')
  if family == 'timm_convnext' and 'norm' not in params:
    params['norm'] = _norm(net.dims[-1])
    notes.append(
      'the head has a norm there: forward_features() is exact, forward() norms '
      'the mean of its map'
    )
  if family == 'internimage' and 'fuse' in params and (
    not net.use_clip_projector
  ):
    notes.append(
      'dcnv3_head_x4 and _x3, which fuse the last two maps, are read there '
      'only by networks with use_clip_projector'
    )
  return net, params, notes


def _vit(family, net, params, size) -> tuple[Any, Params, list[str]]:
  _refuse(family, net)
  notes = []
  params['pos_embed'] = _positions(family, net, params, size, notes)
  net = net.clone(positions='learned')
  if family in NORMED and 'norm' not in params:
    params['norm'] = _norm(net.width)
    inside = ', in transformers hidden_states[-1]'
    notes.append(
      'a last norm, of scale 1 and bias 0, follows there: the tokens of this '
      f'package are what it is given{inside * family.startswith("hf_")}'
    )
  if family == 'hf_dinov2' and not net.layer_scale:
    scale = {'gamma': np.ones((net.depth, net.width), np.float32)}
    layers = params['blocks']['layers'] | {'ls1': scale, 'ls2': scale}
    params['blocks'] = {'layers': layers}
  if family not in RESIZING:  # those drop what they have no place for
    net = _without_heads(family, net, params, notes)
  return net, params, notes


def _refuse(family: str, net) -> None:
  """Raises UserError for what the format computes in another way."""
  def no(what: str, *choose: str) -> None:
    hint = f'choose from {", ".join(choose)}' if choose else 'choose another'
    raise UserError(f'--to {family}: {what}; {hint}')

  if family in CLASSED and not net.class_token:
    no('its networks have a class token, and this one has none', 'timm_vit',
       'hf_siglip', 'detectron2', 'mmseg')  # fmt: skip
  if family == 'hf_siglip' and net.class_token:
    no('its networks have no class token, and this one has', 'hf_vit',
       'hf_dinov2', 'timm_vit')  # fmt: skip
  if net.layer_scale and family not in SCALED:
    no('its networks have no LayerScale, and this one has', *SCALED)
  if net.eps != ONE_EPS.get(family, net.eps):
    no(f'its norms have an epsilon of {ONE_EPS[family]:g}, and these of '
       f'{net.eps:g}', 'hf_vit', 'hf_siglip')  # fmt: skip
  if family in EXACT_GELU and net.activation != 'gelu':
    no(f'its activation is the exact GELU, and this one {net.activation}',
       'timm_vit', 'hf_vit', 'hf_siglip')  # fmt: skip
  if family == 'hf_dinov2' and net.hidden % net.width:
    no('its MLP is a whole number of times as wide as the tokens', 'hf_vit')


def _positions(family, net, params, size, notes) -> np.ndarray:
  side, prefix = size // net.patch, int(net.class_token)
  if 'pos_embed' not in params:
    cells = np.asarray(positions.grid_sincos(side, net.width))[None]
    cls = np.zeros((1, prefix, net.width), np.float32)
    return np.concatenate([cls, cells], axis=1)
  table = np.asarray(params['pos_embed'])
  if (own := resize.grid(table, prefix)) == side:
    return table
  if family in RESIZING:
    notes.append(
      f'positions stay those of {own * net.patch} pixels: {family} resizes '
      'them when it loads them'
    )
    return table
  notes.append(f'positions: {own} x {own} -> {side} x {side} cells')
  return resize.positions(table, prefix, side)


def _without_heads(family, net, params, notes) -> Any:
  """The module without the heads that the format has no place for."""
  # Behind a norm that was not there, a head would see something else.
  added = family in NORMED and not net.final_norm
  for part, holders in POOLED.items():
    if part in params and (added or family not in holders):
      del params[part]
      if part != 'mask_token':
        notes.append(f'{part} has no place there: it is left out')
        net = net.clone(pooling='', num_classes=0)
  if 'head' not in params:
    return net
  if net.pooling in CLASSIFIED.get(family, ()) and not added:
    return net
  del params['head']
  notes.append('the classifier has no place there: it is left out')
  return net.clone(num_classes=0)


def _text(family, net, params) -> list[str]:
  if net.post_norm != (family == 'hf_bert'):
    kind = "BERT's" if net.post_norm else "CLIP's"
    raise UserError(f'--to {family}: the text tower is {kind} kind')
  if family != 'hf_bert' or 'pooler' in params:
    return []
  return [
    'there is no pooler: give from_pretrained add_pooling_layer=False, and of '
    'last_hidden_state take '
    + ('the mean' if net.pool == 'mean' else 'the first token')
  ]


def _norm(width: int) -> Params:
  return {
    'scale': np.ones(width, np.float32), 'bias': np.zeros(width, np.float32)
  }  # fmt: skip


def millions(params: Any) -> float:
  """The number of parameters, in millions."""
  return sum(np.size(x) for x in jax.tree.leaves(params)) / 1e6


def module(model: Mapping[str, Any], params: Mapping) -> Any:
  """The network that a weights file describes, in float32.

  Raises:
    UserError: its fields are of another version of config.model.
  """
  if model['name'] == 'text':
    known = {
      k: v for k, v in model.items()
      if k in ('heads', 'pool', 'post_norm', 'causal', 'activation', 'eps',
               'projection')
    }  # fmt: skip
    return _text_net(params, **known)
  # How a run computes changes no weights.
  fields = {key: x for key, x in model.items() if key not in COMPUTED}
  name, variant = fields.pop('name'), fields.pop('variant', '')
  try:
    return models.backbone(name, variant, **fields)
  except TypeError as error:
    raise UserError(f'config.model of these weights: {error}') from error


def _text_net(params: Params, **fields: Any) -> TextTower:
  """The module of a text tower, its sizes read off its parameters."""
  vocabulary, width = params['word'].shape
  layers = params['blocks']['layers']
  depth, _, hidden = layers['mlp']['fc1']['kernel'].shape
  return TextTower(
    vocabulary=vocabulary, width=width, depth=depth, hidden=hidden,
    positions=params['position'].shape[0], **fields,
  )  # fmt: skip
