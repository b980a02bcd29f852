"""Dense instance discrimination (DenseCL, Wang et al. 2021): view -> view.

Each cell of the other view against all cells of the batch, tau .2, 128 wide,
EMA .999. DenseCL finds the corresponding cell by features and compares with a
queue of mean vectors; here the position is asked for. The scores of 4096 x 196
cells are about as many operations as the encoder's, in full float32: slower.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(
    dense=dict(
      kind='dense', width=128, depth=2, heads=4, hidden=512, projector=1
    )
  )
  for view in (c.views.a, c.views.b):
    view.update(scale=(0.2, 1.0), blur=0.5, solarize=0.0)
  c.targets.dense = recipes.dense('b') | dict(
    representation=dict(kind='dense', projected=True, normalize=False),
    distribution=dict(kind='boltzmann', temperature=0.2, normalize=True),
    regularizer='negatives',
  )
  c.ema = dict(start=0.999, end=0.999)
  return config.variant(c, arg)
