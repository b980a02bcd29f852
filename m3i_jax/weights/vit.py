"""Vision Transformers under the names of timm, MAE, transformers and others.

Groups: 'cls', class token; 'norm', after the last block; 'fc_norm', of the
mean token; 'scale', LayerScale; 'map', SigLIP's pooling; 'head', classifier;
'pooler' and 'mask', which are kept and not used.
Letters: D width, M hidden width, p patch side, L positions, K classes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from m3i_jax.weights.layouts import IN_PROJ, IN_PROJ_BIAS, LEADING, TOKEN
from m3i_jax.weights.parts import (
  block,
  conv,
  heads,
  linear,
  norm,
  one,
  scales,
)  # fmt: skip
from m3i_jax.weights.rules import Arrays, Family, Net, Rule

KEPT = ('mask_token$', 'cls_position$', 'pooler/')


def _model(
  net: Net,
  given: Mapping[str, Any],
  eps: float = 1e-6,
  activation: str = 'gelu',
  scale: float = 1.0,
) -> dict[str, Any]:
  """config.model; `scale` is what LayerScale starts from where there is one."""
  sizes, groups = net.sizes, net.groups
  pooling = 'cls' if 'cls' in groups else 'mean'
  pooling = pooling if 'head' in groups else ''
  pooling = 'mean' if 'fc_norm' in groups else pooling
  return dict(
    name='vit',
    variant='',
    width=sizes['D'],
    depth=max(net.depths.values()),
    heads=heads(sizes['D'], given),
    hidden=sizes['M'],
    patch=sizes['p'],
    class_token='cls' in groups,
    positions='learned',
    final_norm='norm' in groups,
    layer_scale=scale if 'scale' in groups else 0.0,
    eps=eps,
    activation=activation,
    pooling='map' if 'map' in groups else pooling,
    num_classes=sizes['K'] if 'head' in groups else 0,
  )


# timm: the names that ours follow.
TIMM = (
  *one('cls_token', 'cls_token', '1 1 D', TOKEN, 'cls'),
  *one('pos_embed', 'pos_embed', '1 L D', TOKEN),
  *conv('patch_embed.proj', 'patch_embed/proj', 'D 3 p p'),
  *block(
    'blocks', 'attn.qkv', 'attn.proj', ('norm1', 'norm2'),
    ('mlp.fc1', 'mlp.fc2'),
  ),
  *scales('blocks', 'ls1.gamma', 'ls2.gamma'),
  *norm('norm', 'norm', 'D', 'norm'),
  *norm('fc_norm', 'fc_norm', 'D', 'fc_norm'),
  *one('attn_pool.latent', 'attn_pool/probe', '1 1 D', TOKEN, 'map'),
  *linear('attn_pool.q', 'attn_pool/q', 'D', 'D', 'map'),
  *linear('attn_pool.kv', 'attn_pool/kv', '2D', 'D', 'map'),
  *linear('attn_pool.proj', 'attn_pool/proj', 'D', 'D', 'map'),
  *norm('attn_pool.norm', 'attn_pool/norm', 'D', 'map'),
  *linear('attn_pool.mlp.fc1', 'attn_pool/mlp/fc1', 'M', 'D', 'map'),
  *linear('attn_pool.mlp.fc2', 'attn_pool/mlp/fc2', 'D', 'M', 'map'),
  *linear('head', 'head', 'K', 'D', 'head'),
)  # fmt: skip

# transformers: what ViT, ViTMAE and DINOv2 share.
HF = (
  *one('embeddings.cls_token', 'cls_token', '1 1 D', TOKEN, 'cls'),
  *one('embeddings.position_embeddings', 'pos_embed', '1 L D', TOKEN),
  *conv(
    'embeddings.patch_embeddings.projection', 'patch_embed/proj', 'D 3 p p'
  ),
  *norm('layernorm', 'norm', 'D', 'norm'),
)
HF_ATTENTION = tuple(
  f'attention.attention.{name}' for name in ('query', 'key', 'value')
)
HF_VIT = HF + block(
  'encoder.layer', HF_ATTENTION, 'attention.output.dense',
  ('layernorm_before', 'layernorm_after'),
  ('intermediate.dense', 'output.dense'),
)  # fmt: skip
HF_TABLE = ('embeddings.position_embeddings', 'embeddings.cls_token')

SIGLIP = (
  *conv('embeddings.patch_embedding', 'patch_embed/proj', 'D 3 p p'),
  *one(
    'embeddings.position_embedding.weight', 'pos_embed', 'L D', LEADING
  ),
  *block(
    'encoder.layers',
    ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'),
    'self_attn.out_proj', ('layer_norm1', 'layer_norm2'),
    ('mlp.fc1', 'mlp.fc2'),
  ),
  *norm('post_layernorm', 'norm', 'D', 'norm'),
  *one('head.probe', 'attn_pool/probe', '1 1 D', TOKEN, 'map'),
  Rule(
    ('head.attention.in_proj_weight',),
    ('attn_pool/q/kernel', 'attn_pool/kv/kernel'), ('3D D',), IN_PROJ, 'map',
  ),
  Rule(
    ('head.attention.in_proj_bias',),
    ('attn_pool/q/bias', 'attn_pool/kv/bias'), ('3D',), IN_PROJ_BIAS, 'map',
  ),
  *linear('head.attention.out_proj', 'attn_pool/proj', 'D', 'D', 'map'),
  *norm('head.layernorm', 'attn_pool/norm', 'D', 'map'),
  *linear('head.mlp.fc1', 'attn_pool/mlp/fc1', 'M', 'D', 'map'),
  *linear('head.mlp.fc2', 'attn_pool/mlp/fc2', 'D', 'M', 'map'),
)  # fmt: skip

MMSEG = (
  *one('cls_token', 'cls_token', '1 1 D', TOKEN, 'cls'),
  *one('pos_embed', 'pos_embed', '1 L D', TOKEN),
  *conv('patch_embed.projection', 'patch_embed/proj', 'D 3 p p'),
  *block(
    'layers', 'attn.qkv', 'attn.proj', ('ln1', 'ln2'),
    ('ffn.layers.0.0', 'ffn.layers.1'),
  ),
  *scales('layers', 'gamma_1', 'gamma_2'),
  *norm('ln1', 'norm', 'D', 'norm'),
)  # fmt: skip


def _table_alone(flat: Arrays) -> Arrays:
  """The row of a class token that is not there, apart: ViTDet's table."""
  table = flat['pos_embed']
  if round(table.shape[1] ** 0.5) ** 2 == table.shape[1]:
    return flat
  rows = {'cls_position': table[:, :1], 'pos_embed': table[:, 1:]}
  return flat | {path: np.array(x, order='C') for path, x in rows.items()}


def _table_whole(flat: Arrays) -> Arrays:
  """The inverse; the table of a net with class token is whole."""
  row = flat.pop('cls_position', None)
  if row is None or 'pos_embed' not in flat or 'cls_token' in flat:
    return flat
  return flat | {'pos_embed': np.concatenate([row, flat['pos_embed']], axis=1)}


def _with_token(flat: Arrays) -> Arrays:
  """MMSegmentation's MAE always has a class token: zeros, which it drops."""
  if 'cls_token' in flat or 'pos_embed' not in flat:
    return flat
  zeros = np.zeros_like(flat['pos_embed'][:, :1])
  table = _table_whole({'cls_position': zeros} | flat)['pos_embed']
  return flat | {'cls_token': zeros, 'pos_embed': table}


_hf = functools.partial(
  Family, needs=(('', ('cls',)), ('', ('norm',))), table=HF_TABLE, dropped=KEPT
)

FAMILIES = (
  Family(
    'timm_vit',
    TIMM,
    functools.partial(_model, scale=1e-5),
    table=('pos_embed', 'cls_token'),
    dropped=KEPT,
  ),
  Family(
    'mae',
    TIMM,
    functools.partial(_model, scale=1e-5),
    left_out=('decoder_', 'mask_token$'),
    needs=(('', ('cls',)), ('', ('norm', 'fc_norm'))),
    table=('pos_embed', 'cls_token'),
    dropped=KEPT,
  ),
  _hf(
    'hf_vit',
    HF_VIT
    + one('embeddings.mask_token', 'mask_token', '1 1 D', TOKEN, 'mask')
    + linear('pooler.dense', 'pooler', 'D', 'D', 'pooler')
    + linear('classifier', 'head', 'K', 'D', 'head'),
    functools.partial(_model, eps=1e-12),
    prefix='vit.',
    outside=('classifier.',),
    prefixed=('head',),
    left_out=(r'decoder\.0\.',),
  ),
  _hf(
    'hf_vitmae',
    HF_VIT,
    functools.partial(_model, eps=1e-12),
    prefix='vit.',
    prefixed=('',),
    left_out=(r'decoder\.',),
  ),
  _hf(
    'hf_dinov2',
    HF
    + one('embeddings.mask_token', 'mask_token', '1 D', LEADING, 'mask')
    + block(
      'encoder.layer', HF_ATTENTION, 'attention.output.dense',
      ('norm1', 'norm2'), ('mlp.fc1', 'mlp.fc2'),
    )
    + scales('encoder.layer', 'layer_scale1.lambda1', 'layer_scale2.lambda1'),
    _model,
    prefix='dinov2.',
    left_out=(r'classifier\.',),
    needs=(('', ('cls',)), ('', ('norm',)), ('', ('scale',))),
  ),
  Family(
    'hf_siglip',
    SIGLIP,
    functools.partial(_model, activation='gelu_tanh'),
    prefix='vision_model.',
    prefixed=('',),
    left_out=(
      r'text_model\.', 'logit_scale$', 'logit_bias$', r'classifier\.',
      r'(vision_model\.)?embeddings\.position_ids$',
    ),
    needs=(('', ('norm',)),),
    table=('embeddings.position_embedding.weight', ''),
    dropped=KEPT,
  ),
  Family(
    'detectron2',
    tuple(rule for rule in TIMM if not rule.group),
    _model,
    prefix='backbone.net.',
    prefixed=('',),
    left_out=(
      r'backbone\.(?!net\.)', r'proposal_generator\.', r'roi_heads\.', 'pixel_',
    ),
    table=('pos_embed', 'cls_token'),
    spare_row=True,
    adopt=_table_alone,
    release=_table_whole,
    dropped=(*KEPT, 'cls_token$', 'norm/', 'fc_norm/', 'head/', 'attn_pool/'),
  ),
  Family(
    'mmseg',
    MMSEG,
    _model,
    prefix='backbone.',
    left_out=(r'decode_head\.', r'auxiliary_head\.', r'neck\.'),
    needs=(('', ('cls',)),),
    table=('pos_embed', 'cls_token'),
    release=_with_token,
    dropped=(*KEPT, 'fc_norm/', 'head/', 'attn_pool/'),
  ),
)  # fmt: skip
