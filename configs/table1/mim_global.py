"""Masked image modelling of a global feature: half a view -> its whole vector.

No typical work (Table 1). Projector, predictor and 2 - 2 cos are BYOL's (Grill
et al. 2020), mask and optimizer M3I's.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(project=recipes.projector(4096, out=256))
  c.input = dict(view='a', images=1, mask=0.5, pattern='block', hidden='drop')
  c.targets.vector = recipes.vector(
    'a',
    predictor=recipes.predictor(4096),
    distribution=dict(kind='gaussian', normalize=True),
    regularizer='stop_gradient',
  )
  c.ema = dict(start=0.996, end=1.0)
  return config.variant(c, arg)
