"""Masked image modelling of pixels: MAE (He et al. 2022).

Three quarters of the patches are dropped, their standardised pixels predicted.
Learning rate 1.5e-4 for 256 pictures, warm-up of 40 epochs, as in its code.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(dense=recipes.MAE)
  recipes.geometry(c.views.a, smallest=0.2)
  c.input = dict(view='a', images=1, mask=0.75, pattern='random', hidden='drop')
  c.model.update(final_norm=True, drop_path=0.0)
  c.targets.pixels = recipes.pixels('a', cells='hidden')
  c.optimizer.update(learning_rate=2.4e-3, weight_decay=0.05, clip=0.0)
  return config.variant(c, arg)
