"""Instance discrimination: view -> the other view's vector, in three ways.

`:moco` MoCo v3 (Chen et al. 2021), the default; `:byol` (Grill et al. 2020);
`:barlow` Barlow Twins (Zbontar et al. 2021). MoCo v3 and BYOL as published
also predict a from b; BYOL and Barlow Twins train ResNets with LARS.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3()
  variants = dict(moco=moco, byol=byol, barlow=barlow)
  if arg not in variants:
    moco(c)
  return config.variant(c, arg, **variants)


def moco(c) -> None:
  # ViT-B: tau .2, EMA .99, loss times 2 tau, patches embedded at random.
  c.model.final_norm = True
  c.decoders.project = recipes.projector(
    4096, 4096, out=256, last_norm=True, pool='cls'
  )
  c.targets.vector = recipes.vector(
    'b',
    predictor=recipes.predictor(4096, last_norm=True),
    distribution=dict(kind='boltzmann', temperature=0.2, normalize=True),
    regularizer='negatives',
    weight=0.4,
  )
  c.ema = dict(start=0.99, end=1.0)
  c.optimizer.update(learning_rate=2.4e-3, freeze=('encoder/patch_embed',))


def byol(c) -> None:
  c.decoders.project = recipes.projector(4096, out=256)
  c.targets.vector = recipes.vector(
    'b',
    predictor=recipes.predictor(4096),
    distribution=dict(kind='gaussian', normalize=True),
    regularizer='stop_gradient',
  )
  c.ema = dict(start=0.996, end=1.0)


def barlow(c) -> None:
  # One encoder for both views; lambda .0051.
  c.decoders.project = recipes.projector(8192, 8192, out=8192, last_norm=True)
  c.targets.vector = recipes.vector(
    'b',
    representation=dict(kind='global', encoder='shared'),
    distribution='correlation',
    regularizer=dict(kind='decorrelation', weight=0.0051),
  )
