"""Auto-encoder (Hinton and Salakhutdinov 2006): picture -> its own pixels.

Nothing is hidden, so that a copy is enough: the row that shows why masks are
needed (Table 3a). Decoder and crops are MAE's.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(dense=recipes.MAE)
  recipes.geometry(c.views.a, smallest=0.2)
  c.targets.pixels = recipes.pixels('a')
  return config.variant(c, arg)
