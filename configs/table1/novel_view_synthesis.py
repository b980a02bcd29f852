"""Novel view synthesis: one view -> the pixels of another.

Typical work predicts another camera's view (Tatarchenko et al. 2016); here it
is another crop, asked for by its place. Standardised patches as in MAE.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(dense=recipes.TABLE7['dense'])
  c.targets.pixels = recipes.pixels('b')
  return config.variant(c, arg)
