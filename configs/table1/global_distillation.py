"""Global distillation: picture -> the EMA encoder's vector of the same view.

In the form of DINO (Caron et al. 2021): 65,536 outputs, centred and sharpened;
its head 2048-2048-256, momentum .996 and temperatures .1 and .04.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(
    project=dict(
      kind='mlp', pool='cls', hidden=(2048, 2048), cosine=256, out=65536
    )
  )
  c.model.final_norm = True
  c.targets.vector = recipes.vector(
    'a',
    distribution=dict(kind='categorical', temperature=0.1),
    regularizer=dict(kind='centering', temperature=0.04, momentum=0.9),
  )
  c.ema = dict(start=0.996, end=1.0)
  return config.variant(c, arg)
