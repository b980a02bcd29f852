"""SiameseIM of pixels: a masked view -> the pixels of another.

Masked novel view synthesis; mask and decoder as in SiameseIM (Tao et al. 2023).
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(dense=recipes.TABLE7['dense'])
  c.input = dict(view='a', images=1, mask=0.6, pattern='block', hidden='drop')
  c.targets.pixels = recipes.pixels('b')
  return config.variant(c, arg)
