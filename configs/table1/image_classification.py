"""Image classification (ViT, DeiT III): picture -> category.

Attention pooling and a linear classifier, smoothing .1, as M3I's category.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(pool=recipes.TABLE7['pool'])
  c.targets.category = recipes.category()
  c.features = 'pool'
  return config.variant(c, arg)
