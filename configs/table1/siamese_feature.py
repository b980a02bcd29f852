"""SiameseIM of features (Tao et al. 2023): a masked view -> another's.

As its code: 118 of 196 patches dropped, two layers of projector in both
branches, batch norm in projector and decoder, class token among the tokens,
covariance term .02, patches embedded at random, weight decay .05.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(
    dense=recipes.TABLE7['dense']
    | dict(projector=2, norm='batch', class_token=True)
  )
  c.input = dict(view='a', images=1, mask=0.6, pattern='block', hidden='drop')
  c.targets.dense = recipes.dense('b') | dict(
    representation=dict(kind='dense', projected=True),
    regularizer=dict(kind='covariance', weight=0.02),
  )
  c.model.drop_path = 0.0
  c.optimizer.update(weight_decay=0.05, freeze=('encoder/patch_embed',))
  return config.variant(c, arg)
