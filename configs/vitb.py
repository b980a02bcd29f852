"""M3I with ViT-B/16 on ImageNet-1k: the paper's recipe, Table 7.

1600 epochs of 1,281,167 pictures at batch 4096: 499,200 steps.

  TFDS_DATA_DIR=gs://BUCKET/tfds python -m m3i_jax.main --config=configs/vitb.py
"""

from m3i_jax import config as m3i


def get_config(arg: str = ''):
  c = m3i.default()
  c.batch_size = 4096
  c.total_steps = 1600 * 312  # epochs x steps
  c.data.update(source='tfds:imagenet2012', label='label', threads=16)
  c.image_size = 224
  # Table 7 names the six operations; their values are SiameseIM's.
  c.views.a.update(blur=1.0)
  c.views.b.update(blur=0.1, solarize=0.2)

  c.input = dict(view='a', images=2, mask=0.5, pattern='block', hidden='drop')
  c.model.update(variant='B', drop_path=0.1)
  c.decoders.dense = dict(
    kind='dense', width=768, depth=4, heads=16, hidden=3072
  )
  c.decoders.pool = dict(kind='pool', out=768, heads=16)

  feature = dict(
    representation='dense',
    decoder='dense',
    distribution='gaussian',
    regularizer='stop_gradient',
  )
  c.targets.intra = dict(of='a', components=(0,), cells='hidden', **feature)
  c.targets.inter = dict(of='b', components=(1,), cells='all', **feature)
  c.targets.category = dict(
    of='label',
    representation='category',
    decoder='pool',
    predictor='layer_norm',
    distribution=dict(kind='boltzmann', smoothing=0.1),
    regularizer='negatives',
    components=(0, 1),
  )
  c.balance = dict(kind='gradient_norm', gamma=1.0, decay=0.99)

  c.optimizer.update(
    learning_rate=1e-3, warmup=40 / 1600, b1=0.9, b2=0.95, weight_decay=0.1
  )
  c.ema = dict(start=0.995, end=1.0)
  c.checkpoint_every = 312
  return m3i.variant(c, arg)
