"""M3I with ViT-B/16 on ImageNet-1k: the paper's recipe, Table 7's first column.

1600 epochs of 1,281,167 pictures at batch 4096: 499,200 steps.

  TFDS_DATA_DIR=DIR python -m m3i_jax.main --config=configs/vitb.py --workdir=W
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.imagenet_vitb(epochs=1600)
  # Two pictures mixed patch by patch; the first predicts its own view, the
  # second another one, and both their category (section 3.4).
  c.input = dict(view='a', images=2, mask=0.5, pattern='block', hidden='drop')
  c.targets.intra = recipes.dense('a', component=0, cells='hidden')
  c.targets.inter = recipes.dense('b', component=1)
  c.targets.category = recipes.category((0, 1))
  return config.variant(c, arg)
