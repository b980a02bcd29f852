"""What config files share: Table 7's frame, and the usual rows of the table."""

from ml_collections import ConfigDict

from m3i_jax import config

IMAGENET_STEPS = 312  # of 4096 pictures: an epoch of 1,281,167


TABLE7 = dict(
  dense=dict(kind='dense', width=768, depth=4, heads=16, hidden=3072),
  pool=dict(kind='pool', out=768, heads=16),
)
# MAE's decoder (He et al. 2022): the class token goes in, a norm comes last.
MAE = dict(
  kind='dense', width=512, depth=8, heads=16, hidden=2048, class_token=True,
  final_norm=True,
)  # fmt: skip

CAPTION = dict(
  kind='caption', width=768, depth_uni=2, depth_multi=4, heads=12, hidden=3072
)


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
  c.decoders = TABLE7
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


def table3(**decoders) -> ConfigDict:
  """The frame of Table 3: 400 epochs, the mean of the tokens is evaluated."""
  c = imagenet_vitb(epochs=400)
  c.decoders = decoders
  c.features = ''
  return c


def captioned_vitb(source: str, pictures: int, epochs: int) -> ConfigDict:
  """The same frame on pictures with captions, 4096 at a time."""
  c = imagenet_vitb(epochs)
  c.data.update(source=source, label='', id='', text='caption')
  c.total_steps = epochs * pictures // c.batch_size
  c.features = ''
  c.evals = {}  # such data have no labels
  c.eval_every = 0
  return c


def geometry(view, smallest: float) -> None:
  """A view that is cropped and mirrored, its colours as they are."""
  view.update(
    scale=(smallest, 1.0), jitter=0.0, gray=0.0, blur=0.0, solarize=0.0
  )


def projector(*hidden: int, out: int, **more) -> dict:
  """An MLP with batch norm on the pooled tokens (BYOL, MoCo v3, Barlow)."""
  return dict(
    kind='mlp', out=out, hidden=hidden, norm='batch', activation='relu'
  ) | more


def predictor(*hidden: int, **more) -> dict:
  """BYOL's: such an MLP between the projector and the distribution."""
  return dict(
    kind='mlp', hidden=hidden, norm='batch', activation='relu'
  ) | more


def dense(of: str, component: int = 0, cells: str = 'all') -> dict:
  """Dense features of a view: the EMA encoder's tokens, normalised."""
  return dict(
    of=of,
    components=(component,),
    cells=cells,
    representation=dict(kind='dense'),
    decoder='dense',
    distribution='gaussian',
    regularizer='stop_gradient',
  )


def pixels(of: str, component: int = 0, cells: str = 'all') -> dict:
  """Pixels of a view, each patch standardised (MAE)."""
  return dense(of, component, cells) | dict(
    representation=dict(kind='pixels'), regularizer='none'
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


def vector(of: str, **parts) -> dict:
  """One vector of a view: the EMA encoder's, after the EMA projector."""
  return dict(
    of=of, representation=dict(kind='global'), decoder='project'
  ) | parts


def caption(components: tuple[int, ...] = (0,)) -> dict:
  """The caption, piece by piece (MUG)."""
  return dict(
    of='text',
    components=components,
    representation='tokens',
    decoder='caption',
    distribution='categorical',
  )
