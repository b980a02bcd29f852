"""M3I continued from ViT-B/16 weights that are there, such as MAE's.

100 epochs on ImageNet-1k, image and category as in vitb.py. Import weights,
then start from them:

  python -m m3i_jax.import_weights --out=vitb.safetensors mae_vit_base.pth
  python -m m3i_jax.main --config=configs/continue_vitb.py --workdir=W \
    --config.init_from=vitb.safetensors
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.imagenet_vitb(epochs=100)
  # A start needs a file; without --config.init_from this one is looked for.
  c.init_from = 'vitb.safetensors'
  # The files of MAE, DINOv2 and timm have their positions in a table.
  c.model.positions = 'learned'
  # What is learned already should not be lost: a lower peak, and warm-up only
  # until the fresh decoders follow.
  c.optimizer.update(learning_rate=5e-4, warmup=0.05)
  c.input = dict(view='a', images=2, mask=0.5, pattern='block', hidden='drop')
  c.targets.intra = recipes.dense('a', component=0, cells='hidden')
  c.targets.inter = recipes.dense('b', component=1)
  c.targets.category = recipes.category((0, 1))
  return config.variant(c, arg, debug=debug)


def debug(c) -> None:
  """From fresh weights, unless some of this size are given."""
  config.debug(c)
  c.init_from = ''
