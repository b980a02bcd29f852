"""What config files share: Table 7's frame, and the usual rows of the table."""

from ml_collections import ConfigDict

from m3i_jax import config

IMAGENET_STEPS = 312  # of 4096 pictures: an epoch of 1,281,167


def imagenet_vitb(epochs: int) -> ConfigDict:
  """Table 7's ViT-B column on ImageNet-1k, but for the input and the targets.

  The values of the six augmentations, the blur of every input view and the
  clipping are SiameseIM's, on which the paper builds and where it is silent.
  """
  c = config.default()
  c.data.update(source='tfds:imagenet2012', label='label', id='file_name')
  c.image_size = 224
  c.batch_size = 4096
  c.total_steps = epochs * IMAGENET_STEPS
  c.checkpoint_every = IMAGENET_STEPS
  c.views.a.update(blur=1.0)
  c.views.b.update(blur=0.1, solarize=0.2)
  c.model.update(name='vit', variant='B', drop_path=0.1, dtype='bfloat16')
  c.decoders.dense = dict(
    kind='dense', width=768, depth=4, heads=16, hidden=3072
  )
  c.decoders.pool = dict(kind='pool', out=768, heads=16)
  c.balance = dict(kind='gradient_norm', gamma=1.0, decay=0.99)
  c.optimizer.update(
    learning_rate=1e-3,
    warmup=40 / epochs,
    b1=0.9,
    b2=0.95,
    weight_decay=0.1,
    clip=1.0,
  )
  c.ema = dict(start=0.995, end=1.0)
  c.features = 'pool'
  # A quick look at parts of the data; slices are TFDS's.
  c.eval_every = 10 * IMAGENET_STEPS
  c.evals.knn = dict(
    kind='knn',
    train='train[:2%]',
    test='validation[:10%]',
    label='label',
    k=20,
  )
  return c


def dense(of: str, component: int = 0, cells: str = 'all') -> dict:
  """Dense features of a view: the EMA encoder's tokens, normalised."""
  return dict(
    of=of,
    components=(component,),
    cells=cells,
    representation='dense',
    decoder='dense',
    distribution='gaussian',
    regularizer='stop_gradient',
  )


def pixels(of: str, component: int = 0, cells: str = 'all') -> dict:
  """Pixels of a view, each patch standardised (MAE)."""
  return dense(of, component, cells) | dict(
    representation='pixels', regularizer='none'
  )


def category(components: tuple[int, ...] = (0,)) -> dict:
  """The class table: attention pooling, LayerNorm, linear classifier."""
  return dict(
    of='label',
    components=components,
    representation='category',
    decoder='pool',
    predictor='layer_norm',
    distribution=dict(kind='boltzmann', smoothing=0.1),
    regularizer='negatives',
  )


def text(components: tuple[int, ...] = (0,), **tower) -> dict:
  """The text tower's vector against the batch, both ways (CLIP)."""
  return dict(
    of='text',
    components=components,
    representation=dict(kind='text', **tower),
    decoder='pool',
    distribution=dict(
      kind='boltzmann',
      temperature=0.07,
      learned=True,
      normalize=True,
      symmetric=True,
    ),
    regularizer='negatives',
  )
