"""SiameseIM of a global feature: a masked view -> another's vector.

Table 3 calls it instance discrimination with a mask: MoCo v3 on a masked view.
`:msn` is the typical work (Assran et al. 2022): which of 1024 prototypes, tau
.1 and .025, all used alike; one masked view, 15 % dropped, without Sinkhorn.
"""

from configs.table1.instance_discrimination import moco
from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3()
  c.input = dict(view='a', images=1, mask=0.5, pattern='block', hidden='drop')
  if arg != 'msn':
    moco(c)
  return config.variant(c, arg, msn=msn)


def msn(c) -> None:
  c.input.update(mask=0.15, pattern='random')
  c.model.final_norm = True
  c.decoders.project = recipes.projector(
    2048, 2048, out=256, activation='gelu', pool='cls'
  )
  c.targets.vector = recipes.vector(
    'b',
    representation=dict(kind='prototypes', count=1024, temperature=0.025),
    distribution=dict(kind='boltzmann', temperature=0.1, normalize=True),
    regularizer=dict(kind='mean_entropy', weight=1.0),
  )
  c.optimizer.clip = 3.0
  c.ema = dict(start=0.996, end=1.0)
