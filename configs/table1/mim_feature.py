"""Masked image modelling of features: data2vec (Baevski et al. 2022).

Blocks of 60 % are dropped; predicted is the mean of the EMA encoder's last
eight blocks, with EMA .999 to .9999 as in its code. The prediction comes from
M3I's decoder: data2vec feeds mask tokens to the encoder instead.

`:milan` (Hou et al. 2022) predicts the features of a pre-trained encoder that
stays as it is, config.teacher, of 75 % hidden cells; where MILAN prefers to
show what its teacher attends to, they are drawn at random here.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(dense=recipes.TABLE7['dense'])
  c.input = dict(view='a', images=1, mask=0.6, pattern='block', hidden='drop')
  c.targets.dense = recipes.dense('a', cells='hidden') | dict(
    representation=dict(kind='dense', last=8)
  )
  c.ema = dict(start=0.999, end=0.9999)
  return config.variant(c, arg, milan=milan)


def milan(c) -> None:
  c.input.update(mask=0.75, pattern='random')
  c.targets.dense.representation = dict(kind='dense', encoder='frozen')
