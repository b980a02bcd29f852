"""M3I with InternImage-H (1.09 B): the paper's headline run, Table 7's column.

30 epochs of 442 million pictures of 192 x 192, 40,000 a step: 427 M with a
caption (LAION-400M, YFCC-15M, CC12M) and 15 M with a category (ImageNet-22k),
section 4.1. A record has a caption, a label or both; it adds to the targets
that it can, and the sources are drawn as their records are many. It takes 64
chips, v5p or larger (docs/plans.md). Each source is a directory that
m3i_jax.prepare has made, of the tars of img2dataset or of ImageNet:

  python -m m3i_jax.main --config=configs/internimage_h.py --workdir=W \
    --config.data.sources.laion400m.source=DIR \
    --config.data.sources.yfcc15m.source=DIR \
    --config.data.sources.cc12m.source=DIR \
    --config.data.sources.imagenet22k.source=DIR
"""

from m3i_jax import config, recipes

PICTURES, EPOCHS, BATCH = 442_000_000, 30, 40_000


def get_config(arg: str = ''):
  c = recipes.imagenet_vitb(EPOCHS)
  c.data.update(source='', label='label', text='text', id='')
  captions = dict(source='', label='', text='text', id='id')
  c.data.sources = dict(
    laion400m=dict(captions),
    yfcc15m=dict(captions),
    cc12m=dict(captions),
    imagenet22k=dict(source='', label='label', text='', id='id'),
  )
  c.image_size = 192
  c.batch_size = BATCH
  c.total_steps = EPOCHS * PICTURES // BATCH
  c.checkpoint_every = 1000
  # 20,000 pairs of pictures are 2^5 5^4: 64 chips share them as 32 x 2.
  c.mesh.update(replica=-1, fsdp=32, tensor=2)
  c.accumulate = 5
  c.model = config.backbone(
    'internimage', 'H', drop_path=0.2, uniform=True, remat='full'
  )
  # Two pictures mixed patch by patch; the first predicts its own view, the
  # second another one, and both their category and their text.
  c.input = dict(view='a', images=2, mask=0.5, pattern='block', hidden='fill')
  c.decoders = dict(
    dense=dict(kind='dense', width=1024, depth=4, heads=16, hidden=4096),
    pool=dict(kind='pool', out=768, heads=16),
  )
  c.targets.intra = recipes.dense('a', component=0, cells='hidden')
  c.targets.inter = recipes.dense('b', component=1)
  c.targets.category = recipes.category((0, 1))
  c.targets.text = recipes.text((0, 1), variant='base')
  c.optimizer.warmup = 1 / EPOCHS
  c.evals = {}
  c.eval_every = 0
  return config.variant(c, arg)
