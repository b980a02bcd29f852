"""M3I with InternImage-T on the bundled pictures: a ConvNet on a laptop.

As configs/emoji.py, but for the encoder: 64 x 64 pictures, 4 x 4 patches of 16
pixels, each a token of the fused map.
"""

from configs import emoji
from m3i_jax import config


def get_config(arg: str = ''):
  c = emoji.get_config()
  c.image_size = 64
  c.batch_size = 32
  c.total_steps = 300
  c.log_every = 10
  c.eval_every = 0
  c.checkpoint_every = 50
  c.model = config.backbone(
    'internimage', 'T', fused=256, drop_path=0.1, dtype='mixed'
  )
  c.input.hidden = 'fill'
  c.decoders.pool.heads = 8
  # So wide a network collapses within 60 steps at a peak of 1e-3 and an average
  # that follows at .99.
  c.optimizer.update(learning_rate=3e-4, warmup=0.1)
  c.ema.start = 0.998
  c.evals = {k: c.evals[k] for k in ('group_knn', 'subgroup_knn', 'zeroshot')}
  return config.variant(c, arg)
