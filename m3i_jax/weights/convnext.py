"""ConvNeXt under the names of timm.

Groups: 'norm' and 'head', of the classifier. Letters: C0 to C3 channels, K
classes.
"""

from collections.abc import Mapping
from typing import Any

from m3i_jax.weights.layouts import VECTOR
from m3i_jax.weights.parts import Rules, conv, linear, norm, one
from m3i_jax.weights.rules import Family, Net

STAGES = range(4)


def _stage(s: int) -> Rules:
  stage, ours, c, before = f'stages.{s}', f'stages_{s}', f'C{s}', f'C{s - 1}'
  at = lambda name: f'{stage}.blocks.{{n}}.{name}'
  to = lambda name: f'{ours}/blocks/{name}'
  down = (
    *norm(f'{stage}.downsample.0', f'{ours}/downsample/norm', before),
    *conv(
      f'{stage}.downsample.1', f'{ours}/downsample/conv', f'{c} {before} 2 2'
    ),
  )
  return (
    *(down if s else ()),
    *conv(at('conv_dw'), to('conv_dw'), f'{c} 1 7 7'),
    *norm(at('norm'), to('norm'), c),
    *linear(at('mlp.fc1'), to('mlp/fc1'), f'4{c}', c),
    *linear(at('mlp.fc2'), to('mlp/fc2'), c, f'4{c}'),
    *one(at('gamma'), to('gamma'), c, VECTOR),
  )


def _model(net: Net, given: Mapping[str, Any]) -> dict[str, Any]:
  return dict(
    name='convnext',
    variant='',
    depths=tuple(net.depths[f'stages.{s}.blocks.'] for s in STAGES),
    dims=tuple(net.sizes[f'C{s}'] for s in STAGES),
    fused=0,
    layer_scale=1e-6,
    num_classes=net.sizes['K'] if 'head' in net.groups else 0,
  )


RULES = (
  *conv('stem.0', 'stem/conv', 'C0 3 4 4'),
  *norm('stem.1', 'stem/norm', 'C0'),
  *(rule for s in STAGES for rule in _stage(s)),
  *norm('head.norm', 'norm', 'C3', 'norm'),
  *linear('head.fc', 'head', 'K', 'C3', 'head'),
)
FAMILIES = (
  Family(
    'timm_convnext',
    RULES,
    _model,
    needs=(('head', ('norm',)),),
    dropped=('fuse/',),
  ),
)
