"""Text towers under the names of transformers.

Letters: V vocabulary, P positions, D width, M hidden width, E projection.
"""

from collections.abc import Mapping
from typing import Any

from m3i_jax.weights.layouts import LINEAR, TABLE
from m3i_jax.weights.parts import block, heads, linear, norm, one
from m3i_jax.weights.rules import Family, Net

BERT = (
  *one('embeddings.word_embeddings.weight', 'word', 'V D', TABLE),
  *one('embeddings.position_embeddings.weight', 'position', 'P D', TABLE),
  *one('embeddings.token_type_embeddings.weight', 'type', '2 D', TABLE),
  *norm('embeddings.LayerNorm', 'norm', 'D'),
  *block(
    'encoder.layer',
    ('attention.self.query', 'attention.self.key', 'attention.self.value'),
    'attention.output.dense',
    ('attention.output.LayerNorm', 'output.LayerNorm'),
    ('intermediate.dense', 'output.dense'),
  ),
  *linear('pooler.dense', 'pooler', 'D', 'D', 'pooler'),
)
CLIP = (
  *one('embeddings.token_embedding.weight', 'word', 'V D', TABLE),
  *one('embeddings.position_embedding.weight', 'position', 'P D', TABLE),
  *block(
    'encoder.layers',
    ('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'),
    'self_attn.out_proj',
    ('layer_norm1', 'layer_norm2'),
    ('mlp.fc1', 'mlp.fc2'),
  ),
  *norm('final_layer_norm', 'final_norm', 'D'),
  *one(
    'text_projection.weight', 'projection/kernel', 'E D', LINEAR, 'projection'
  ),
)


def _bert(net: Net, given: Mapping[str, Any]) -> dict[str, Any]:
  pool = 'pooler' if 'pooler' in net.groups else 'cls'
  return _sizes(net, given) | dict(
    post_norm=True, causal=False, activation='gelu', eps=1e-12, pool=pool,
    projection=0,
  )  # fmt: skip


def _clip(net: Net, given: Mapping[str, Any]) -> dict[str, Any]:
  projection = net.sizes['E'] if 'projection' in net.groups else 0
  return _sizes(net, given) | dict(
    post_norm=False, causal=True, activation='quick_gelu', eps=1e-5,
    pool='argmax', projection=projection,
  )  # fmt: skip


def _sizes(net: Net, given: Mapping[str, Any]) -> dict[str, Any]:
  sizes = net.sizes
  return dict(
    name='text',
    vocabulary=sizes['V'],
    width=sizes['D'],
    depth=max(net.depths.values()),
    heads=heads(sizes['D'], given),
    hidden=sizes['M'],
    positions=sizes['P'],
  )


FAMILIES = (
  Family(
    'hf_bert',
    BERT,
    _bert,
    prefix='bert.',
    left_out=(
      r'cls\.', r'classifier\.', r'qa_outputs\.',
      r'(bert\.)?embeddings\.position_ids$',
    ),
    old=(
      (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
      (r'LayerNorm\.beta$', 'LayerNorm.bias'),
    ),
  ),
  Family(
    'hf_clip_text',
    CLIP,
    _clip,
    prefix='text_model.',
    outside=('text_projection.',),
    prefixed=('',),
    left_out=(
      r'vision_model\.', r'visual_projection\.', 'logit_scale$',
      r'(text_model\.)?embeddings\.position_ids$',
    ),
  ),
)  # fmt: skip
