"""InternImage: what names and shapes tell of a net, and what they do not."""

import re

import numpy as np
import pytest

from m3i_jax import weights
from m3i_jax.errors import UserError
from tests.weights.official import LISTED, drawn


def test_what_shapes_of_an_internimage_do_not_tell():
  arrays = drawn(LISTED['internimage_h'][1])
  with pytest.raises(UserError, match='give offset_scale'):
    weights.model_of('internimage', arrays)
  given = {'offset_scale': 1.0}
  with pytest.raises(UserError, match='give level2_post_norm_block_ids'):
    weights.model_of('internimage', arrays, given)
  given['level2_post_norm_block_ids'] = (0, 1)
  with pytest.raises(UserError, match='post_norms has 1 norms'):
    weights.model_of('internimage', arrays, given)
  given['level2_post_norm_block_ids'] = (1,)
  assert weights.model_of('internimage', arrays, given) == dict(
    name='internimage', variant='', channels=32, depths=(1, 1, 2, 1),
    groups=(1, 2, 4, 8), offset_scale=1.0, layer_scale=None, post_norm=False,
    dw_kernel_size=5, res_post_norm=True, level2_post_norm=True,
    level2_post_norm_block_ids=(1,), center_feature_scale=True,
    use_clip_projector=True, fused=1024, num_classes=11,
  )  # fmt: skip
  arrays = drawn(LISTED['internimage_s'][1])
  found = weights.model_of('internimage', arrays, {'offset_scale': 1.0})
  assert found['post_norm'] and found['layer_scale'] == 1e-5


# Channels, depths, groups, offset scale, million parameters.
RELEASED = {
  'T': (64, (4, 4, 18, 4), (4, 8, 16, 32), 1.0, 29.918),
  'S': (80, (4, 4, 21, 4), (5, 10, 20, 40), 1.0, 50.080),
  'B': (112, (4, 4, 21, 4), (7, 14, 28, 56), 1.0, 97.462),
  'L': (160, (5, 5, 22, 5), (10, 20, 40, 80), 2.0, 223.335),
  'XL': (192, (5, 5, 24, 5), (12, 24, 48, 96), 2.0, 334.820),
  'H': (320, (6, 6, 32, 6), (10, 20, 40, 80), 1.0, 1089.637),
  'G': (512, (2, 2, 48, 4), (16, 32, 64, 128), 1.0, 3076.373),
}


def released(variant):
  """Its arrays, of no memory: a small net's with its channels and layers."""
  channels, depths, groups, _, _ = RELEASED[variant]
  small = {'T': 't', 'H': 'h', 'G': 'h'}.get(variant, 's')
  _, shapes = LISTED[f'internimage_{small}']
  own = shapes['patch_embed.conv2.bias'][0]
  points = {'offset': 18, 'mask': 9}
  fixed = ('clip_projector.', 'fc_norm.')
  arrays = {}

  def sized(name, level):
    part = name.split('.')[-2]
    shape = [n * channels // own if n % 8 == 0 else n for n in shapes[name]]
    if name.startswith(fixed):
      return shapes[name]
    if name.startswith('dcnv3_head'):
      return shapes[name][0], *shape[1:]
    if name.startswith('head.'):
      return 1000, *(shapes[name] if small == 'h' else shape)[1:]
    if part in points:
      return points[part] * groups[level], *shape[1:]
    if 'center_feature' in name:
      return groups[level], *shape[1:]
    return shape

  for name in shapes:
    level = int(name.split('.')[1]) if name.startswith('levels') else 0
    array = np.broadcast_to(np.float32(0), sized(name, level))
    if '.blocks.0.' in name:
      for n in range(depths[level]):
        arrays[name.replace('.blocks.0.', f'.blocks.{n}.')] = array
    elif '.post_norms.' in name:
      for n in range({'H': 5, 'G': 8}[variant]):
        arrays[name.replace('.post_norms.0.', f'.post_norms.{n}.')] = array
    elif '.blocks.' not in name:
      arrays[name] = array
  if variant == 'G':
    return {k: x for k, x in arrays.items() if '.res_post_norm' not in k}
  return arrays


@pytest.mark.parametrize('variant', RELEASED)
def test_released_internimages_need_nothing(variant):
  channels, depths, groups, offset_scale, millions = RELEASED[variant]
  arrays = released(variant)
  found = weights.model_of('internimage', arrays)
  assert found['channels'] == channels and found['depths'] == depths
  assert found['groups'] == groups and found['offset_scale'] == offset_scale
  assert found['post_norm'] == (variant not in 'TH')
  counted = (
    x.size for name, x in arrays.items() if not re.search('running|num_', name)
  )
  assert round(sum(counted) / 1e6, 3) == millions


def test_counts_stay_whole_numbers():
  arrays = drawn(LISTED['internimage_t'][1])
  params = weights.import_state('internimage', arrays)
  name = 'conv_head.1.0.num_batches_tracked'
  params['conv_norm']['count'] = np.float32(6.9999995)
  assert weights.export_state('internimage', params)[name] == 7
  for wrong in (np.nan, -1):
    params['conv_norm']['count'] = np.float32(wrong)
    with pytest.raises(UserError, match='conv_norm/count: .* is no count'):
      weights.export_state('internimage', params)


@pytest.mark.parametrize('arrays', [None, [1], 'x'])
def test_no_dict_is_a_mistake(arrays):
  with pytest.raises(UserError, match='internimage: a .* is given'):
    weights.import_state('internimage', arrays)
  with pytest.raises(UserError, match='internimage: a .* is given'):
    weights.export_state('internimage', arrays)
