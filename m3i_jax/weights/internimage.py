"""InternImage under the names of its release (Wang et al., 2023).

Groups: 'scale', LayerScale; 'center', scale of centre features; 'end', norm of
each level's end; 'res', norms after the branches; 'post', norms in the third
level; 'fuse', the stride-16 map; 'clip', attention pooling; 'conv_head' and
'head', classifier.
Letters: B half of the first level's channels, k side of the depthwise kernels,
G0 to G3 groups, of 9 points each, F width of the stride-16 map, E of what is
classified, K classes.
"""

from collections.abc import Mapping
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.weights.layouts import COUNT, LINEAR, POINTWISE, VECTOR
from m3i_jax.weights.parts import Rules, conv, linear, norm, one
from m3i_jax.weights.rules import Family, Net

LEVELS = range(4)
UNTOLD = ('offset_scale', 'post_norm', 'level2_post_norm_block_ids')
# (channels, depths) -> UNTOLD, of the nets that were released.
RELEASED = {
  (64, (4, 4, 18, 4)): (1.0, False, None),  # T
  (80, (4, 4, 21, 4)): (1.0, True, None),  # S
  (112, (4, 4, 21, 4)): (1.0, True, None),  # B
  (160, (5, 5, 22, 5)): (2.0, True, None),  # L
  (192, (5, 5, 24, 5)): (2.0, True, None),  # XL
  (320, (6, 6, 32, 6)): (1.0, False, (5, 11, 17, 23, 29)),  # H
  (512, (2, 2, 48, 4)): (1.0, True, (5, 11, 17, 23, 29, 35, 41, 47)),  # G
}


def _dcn(stack: str, to: str, c: str, g: int) -> Rules:
  name, ours = f'{stack}.{{n}}.dcn', f'{to}/dcn'
  center = f'{name}.center_feature_scale_proj'
  return (
    *conv(f'{name}.dw_conv.0', f'{ours}/dw_conv', f'{c} 1 k k'),
    *norm(f'{name}.dw_conv.1.1', f'{ours}/dw_norm', c),
    *linear(f'{name}.offset', f'{ours}/offset', f'18G{g}', c),
    *linear(f'{name}.mask', f'{ours}/mask', f'9G{g}', c),
    *linear(f'{name}.input_proj', f'{ours}/input_proj', c, c),
    *linear(f'{name}.output_proj', f'{ours}/output_proj', c, c),
    *one(
      f'{center}_weight', f'{ours}/center/kernel', f'G{g} {c}', LINEAR, 'center'
    ),
    *one(f'{center}_bias', f'{ours}/center/bias', f'G{g}', VECTOR, 'center'),
  )


def _level(s: int) -> Rules:
  level, ours = f'levels.{s}', f'levels_{s}'
  c, wide, wider = (f'{2 ** (s + n)}B' for n in (1, 3, 2))
  stack, to = f'{level}.blocks', f'{ours}/blocks'
  at = lambda name: f'{stack}.{{n}}.{name}'
  name, path = f'{level}.downsample', f'{ours}/downsample'
  down = (
    *conv(f'{name}.conv', f'{path}/conv', f'{wider} {c} 3 3', bias=False),
    *norm(f'{name}.norm.1', f'{path}/norm', wider),
  )
  return (
    *norm(at('norm1.0'), f'{to}/norm1', c),
    *_dcn(stack, to, c, s),
    *norm(at('norm2.0'), f'{to}/norm2', c),
    *linear(at('mlp.fc1'), f'{to}/mlp/fc1', wide, c),
    *linear(at('mlp.fc2'), f'{to}/mlp/fc2', c, wide),
    *one(at('gamma1'), f'{to}/gamma1', c, VECTOR, 'scale'),
    *one(at('gamma2'), f'{to}/gamma2', c, VECTOR, 'scale'),
    *norm(at('res_post_norm1.0'), f'{to}/res_post_norm1', c, 'res'),
    *norm(at('res_post_norm2.0'), f'{to}/res_post_norm2', c, 'res'),
    *norm(f'{level}.norm.0', f'{ours}/norm', c, 'end'),
    *(down if s + 1 in LEVELS else ()),
  )


def _pointwise(name: str, path: str, shape: str, group: str) -> Rules:
  return one(f'{name}.weight', f'{path}/kernel', shape, POINTWISE, group)


def _clip_projector() -> Rules:
  name, ours, rules = 'clip_projector', 'clip_projector', ()
  for x in 'qkv':
    cross, path = f'{name}.cross_dcn.{x}', f'{ours}/{x}'
    rules += (
      *norm(f'{name}.norm1_{x}.0', f'{ours}/norm_{x}', 'F', 'clip'),
      *one(f'{cross}.weight', f'{path}/kernel', 'F F', LINEAR, 'clip'),
      *one(f'{cross}_bias', f'{path}/bias', 'F', VECTOR, 'clip'),
    )
  rules += linear(f'{name}.cross_dcn.proj', f'{ours}/proj', 'E', 'F', 'clip')
  return rules + norm('fc_norm.0', 'fc_norm', 'E', 'clip')


def _classifier() -> Rules:
  name, path, group = 'conv_head.1.0', 'conv_norm', 'conv_head'
  return (
    *_pointwise('conv_head.0', 'conv_head', 'E 16B 1 1', group),
    *norm(name, path, 'E', group),
    *one(f'{name}.running_mean', f'{path}/mean', 'E', VECTOR, group),
    *one(f'{name}.running_var', f'{path}/var', 'E', VECTOR, group),
    *one(f'{name}.num_batches_tracked', f'{path}/count', '', COUNT, group),
    *linear('head', 'head', 'K', 'E', 'head'),
  )


def _model(net: Net, given: Mapping[str, Any]) -> dict[str, Any]:
  sizes, groups = net.sizes, net.groups
  channels = 2 * sizes['B']
  depths = tuple(net.depths[f'levels.{s}.blocks.'] for s in LEVELS)
  return dict(
    name='internimage',
    variant='',
    channels=channels,
    depths=depths,
    groups=tuple(sizes[f'G{s}'] for s in LEVELS),
    layer_scale=1e-5 if 'scale' in groups else None,
    dw_kernel_size=sizes['k'],
    res_post_norm='res' in groups,
    level2_post_norm='post' in groups,
    center_feature_scale='center' in groups,
    use_clip_projector='clip' in groups,
    fused=sizes['F'] if 'fuse' in groups else 0,
    num_classes=sizes['K'] if 'head' in groups else 0,
    **_untold(net, given, RELEASED.get((channels, depths))),
  )


def _untold(
  net: Net, given: Mapping[str, Any], released: tuple | None
) -> dict[str, Any]:
  """What shapes do not tell: of a net that is known, by its parts, or given."""
  told = dict(zip(UNTOLD, released, strict=True)) if released else {}
  if 'center' not in net.groups:
    told['post_norm'] = 'end' not in net.groups
  elif 'res' in net.groups:
    told['post_norm'] = False
  if 'post' not in net.groups:
    told['level2_post_norm_block_ids'] = None
  told |= {name: given[name] for name in UNTOLD if name in given}
  for name in UNTOLD:
    if name not in told:
      raise UserError(
        f'shapes do not tell which {name} this InternImage has, and it is none '
        f'of those that were released: give {name}'
      )
  ids, found = told[UNTOLD[2]], net.depths.get('levels.2.post_norms.', 0)
  if len(ids or ()) != found:
    raise UserError(
      f'levels.2.post_norms has {found} norms, and {UNTOLD[2]} is {ids}: give '
      f'{UNTOLD[2]}, after which blocks they stand'
    )
  if max(ids or (0,)) >= (depth := net.depths['levels.2.blocks.']):
    raise UserError(
      f'{UNTOLD[2]} is {ids}, and levels.2 has {depth} blocks, counted from 0'
    )
  return told


RULES = (
  *conv('patch_embed.conv1', 'patch_embed/conv1', 'B 3 3 3'),
  *norm('patch_embed.norm1.1', 'patch_embed/norm1', 'B'),
  *conv('patch_embed.conv2', 'patch_embed/conv2', '2B B 3 3'),
  *norm('patch_embed.norm2.1', 'patch_embed/norm2', '2B'),
  *(rule for s in LEVELS for rule in _level(s)),
  *norm('levels.2.post_norms.{n}.0', 'levels_2/post_norms', '8B', 'post'),
  *_pointwise('dcnv3_head_x4.0', 'fuse/x4', '4F 16B 1 1', 'fuse'),
  *one('dcnv3_head_x4.0.bias', 'fuse/x4/bias', '4F', VECTOR, 'fuse'),
  *_pointwise('dcnv3_head_x3', 'fuse/x3', 'F 8B 1 1', 'fuse'),
  *one('dcnv3_head_x3.bias', 'fuse/x3/bias', 'F', VECTOR, 'fuse'),
  *_clip_projector(),
  *_classifier(),
)
FAMILIES = (
  Family(
    'internimage',
    RULES,
    _model,
    needs=(('clip', ('fuse',)), ('head', ('conv_head', 'clip'))),
  ),
)
