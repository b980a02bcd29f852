"""Dense distillation (FD, Wei et al. 2022): picture -> a teacher's features.

The teacher is the EMA encoder, so that the row needs no other model; or, FD's
own way, a pre-trained encoder that stays as it is (`:frozen`; name its weights
in config.teacher). One linear layer, targets normalised without affine, as in
FD; its smooth L1 (beta 2) is quadratic below 2, here it is so throughout.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.table3(linear=dict(kind='mlp', pool='none'))
  recipes.geometry(c.views.a, smallest=0.08)
  c.targets.dense = recipes.dense('a') | dict(decoder='linear')
  return config.variant(c, arg, frozen=frozen)


def frozen(c) -> None:
  # FD's optimizer: 3e-4 for 512 pictures, at batch 4096.
  c.targets.dense.representation = dict(kind='dense', encoder='frozen')
  c.model.drop_path = 0.2
  c.optimizer.update(learning_rate=2.4e-3, weight_decay=0.05, clip=3.0)
