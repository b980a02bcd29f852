"""Learning rates and trust ratios by layer, also where layers are stacked.

The blocks of a backbone are one array with an axis of layers in front, so that
what is said of a layer here is said along that axis.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

STACKED = 'blocks'  # below it, the first axis counts layers
# Parameters of one axis in each layer, which neither decay nor are scaled.
PLAIN = ('bias', 'scale', 'logit_scale', 'offset', 'position_bias')
_FIRST = ('patch_embed', 'cls_token', 'pos_embed', 'mask_token', 'stem')
_LEVEL = re.compile(r'(levels|stages)_(\d+)')


def scale_by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
  """LARS (You et al., 2017): an update as long as a share of its weights.

  In MoCo v3 and MAE it comes before the momentum and the learning rate, and
  leaves biases and norms alone; optax.lars has the learning rate inside the
  momentum.
  """

  def one(update, weight):
    size, of = jnp.linalg.norm(update), jnp.linalg.norm(weight)
    ratio = coefficient * of / jnp.where(size > 0, size, 1.0)
    return update * jnp.where((size > 0) & (of > 0), ratio, 1.0)

  def scale(path, update, weight):
    keys = [key.key for key in path]
    if keys[-1] in PLAIN:
      return update
    return (jax.vmap(one) if STACKED in keys else one)(update, weight)

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(
      scale, updates, params
    )
  )


def scale_by_layer(decay: float) -> optax.GradientTransformation:
  """Layer-wise decay of the learning rate: `scales` times the update."""

  def scale(updates, params):
    by_layer = scales(params, decay)
    return jax.tree.map(
      lambda u, s: u * jnp.reshape(s, np.shape(s) + (1,) * (u.ndim - s.ndim)),
      updates, by_layer,
    )

  return optax.stateless(scale)


def scales(params, decay: float):
  """What multiplies the learning rate: a float32 array of one or each layer.

  Of a plain backbone of n blocks (BEiT, MAE): decay for the last block, one
  more power for each before it and for what comes before the first, 1 for the
  norm after the last. Of one with levels (InternImage): 1 for the last block;
  what comes before the first has its rate, what stands between two levels that
  of the block that follows. Whatever is no backbone has 1.
  """
  encoder = params.get('encoder', {})
  starts = np.cumsum([0, *_depths(encoder)])
  count = starts[-1]

  def power(keys):
    level = _LEVEL.fullmatch(keys[1])
    if STACKED in keys:
      first = starts[int(level[2]) if level else 0]
      blocks = np.arange(first, starts[starts > first][0])
      return count - blocks - bool(level)
    if level:  # ConvNeXt's downsampling begins a stage, InternImage's ends it
      follows = starts[int(level[2]) + (level[1] == 'levels')]
      return max(count - 1 - follows, 0)
    leveled = any(map(_LEVEL.fullmatch, encoder))
    return count + 1 - 2 * leveled if keys[1] in _FIRST else 0

  def rule(path, _):
    keys = [key.key for key in path]
    exponent = power(keys) if keys[0] == 'encoder' else 0
    return np.asarray(decay**exponent, np.float32)

  return jax.tree_util.tree_map_with_path(rule, params)


def _depths(encoder) -> list[int]:
  """Blocks of each level, or of the only one."""
  found: dict[int, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(encoder):
    keys = [key.key for key in path]
    if STACKED in keys:
      level = _LEVEL.fullmatch(keys[0])
      found[int(level[2]) if level else 0] = leaf.shape[0]
  return [found[level] for level in sorted(found)]
