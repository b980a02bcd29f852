"""M3I without mix (Table 4): one masked picture, several targets.

The paper says no more than "multi-target": here half the patches are dropped
and the rest predicts another view's features and the category. The variant
`intra` asks for its own view's features, too. 400 epochs as in Table 4.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.imagenet_vitb(epochs=400)
  c.input = dict(view='a', images=1, mask=0.5, pattern='block', hidden='drop')
  c.targets.inter = recipes.dense('b')
  c.targets.category = recipes.category()
  return config.variant(c, arg, intra=intra)


def intra(c) -> None:
  c.targets.intra = recipes.dense('a', cells='hidden')
