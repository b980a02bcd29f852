"""Table 1's rows, MUG and M3I on emoji64: one encoder, one budget, one score.

  python -m m3i_jax.ablate --config=configs/ablation_emoji.py --workdir=W

Variants: `full`, three seeds and a ViT-Ti for a GPU; `debug`, two rows on drawn
shapes. A row keeps its input, targets, decoders, predictors, regularizers and
balance; data, views, encoder, optimizer and scores are the frame's. The encoder
has no class token: rows that project it project the mean token instead.
"""

from ml_collections import ConfigDict

from configs import emoji
from m3i_jax import config

FRAME = ('data', 'views', 'model', 'optimizer', 'ema', 'panel')
MOCO = 'configs/table1/instance_discrimination.py'

# name: letter in Table 3, what it is called, family, and the paper's ImageNet
# top-1 after fine-tuning (ViT-B/16, 400 epochs, Tables 3 and 4; 0: none).
ROWS = dict(
  auto_encoder=('a', 'auto-encoder', 'intra', 77.5),
  dense_distillation=('b', 'dense distillation', 'intra', 78.8),
  global_distillation=('c', 'global distillation', 'intra', 77.1),
  mim_pixel=('d', 'MIM, pixels (MAE)', 'intra', 83.1),
  mim_feature=('e', 'MIM, features (data2vec)', 'intra', 83.3),
  mim_global=('f', 'MIM, global', 'intra', 83.2),
  novel_view_synthesis=('g', 'novel view synthesis', 'inter', 78.8),
  dense_instance_discrimination=('h', 'dense (DenseCL)', 'inter', 83.2),
  moco=('i', 'instance (MoCo)', 'inter', 83.0, f'{MOCO}:moco'),
  byol=('i', 'instance (BYOL)', 'inter', 83.0, f'{MOCO}:byol'),
  barlow=('i', 'instance (Barlow Twins)', 'inter', 83.0, f'{MOCO}:barlow'),
  siamese_pixel=('j', 'Siamese, pixels', 'inter', 78.9),
  siamese_feature=('k', 'Siamese, features (SiameseIM)', 'inter', 83.7),
  siamese_global=('l', 'Siamese, global', 'inter', 82.9),
  image_classification=('', 'image classification', 'supervised', 81.8),
  clip=('', 'CLIP', 'supervised', 0.0),
  mug=('', 'MUG', 'several', 0.0, 'configs/mug.py'),
  m3i_nomix=('', 'M3I without mix', 'several', 83.7, 'configs/m3i_nomix.py'),
  m3i=('', 'M3I', 'several', 83.9, 'configs/vitb.py'),
)  # fmt: skip

# Whose order the paper's numbers tell.
PAIRS = (
  ('mim_pixel', 'auto_encoder'),
  ('mim_feature', 'dense_distillation'),
  ('mim_global', 'global_distillation'),
  ('siamese_pixel', 'novel_view_synthesis'),
  ('siamese_feature', 'dense_instance_discrimination'),
  ('siamese_global', 'moco'),
  ('mim_feature', 'mim_pixel'),
  ('siamese_feature', 'siamese_pixel'),
  ('siamese_feature', 'siamese_global'),
  ('siamese_feature', 'mim_feature'),
  ('mim_feature', 'image_classification'),
  ('siamese_feature', 'image_classification'),
  ('m3i_nomix', 'image_classification'),
  ('m3i_nomix', 'siamese_feature'),
  ('m3i', 'image_classification'),
  ('m3i', 'siamese_feature'),
  ('m3i', 'm3i_nomix'),
)


def get_config(arg: str = ''):
  e = emoji.get_config('debug' if arg == 'debug' else '')
  c = ConfigDict(
    dict(
      seed=0,  # the first of
      seeds=1,
      steps=700,
      seconds=0,  # of training instead of steps, at the speeds of
      like='',  # an earlier ablation's workdir
      batch_size=64,
      pairs=PAIRS,
      best_by='group_probe/top1',  # chooses the best row of a family
      # The encoder; decoders at most, see config.shrink.
      shrink=dict(
        model=dict(width=128, depth=4, heads=4, hidden=512),
        decoder=dict(width=64, depth=2, heads=4, hidden=256),
      ),
      frame={key: e[key].to_dict() for key in FRAME},
    )
  )
  c.rows = ConfigDict(
    {name: row(name, *about) for name, about in ROWS.items()}, sort_keys=False
  )
  for size in c.shrink.model:
    del c.frame.model[size]
  c.frame.image_size = e.image_size
  # The mean of the tokens: no decoder helps one method and not another.
  c.frame.update(features='', eval_every=0, log_every=50, checkpoint_every=100)
  c.frame.optimizer.freeze = ()  # all of the patch embedding learns
  c.frame.panel.examples = 0
  unseen = dict(train='train', test=('heldout', 'vendor_heldout'))
  c.frame.evals = {
    f'{label}_{kind}': dict(kind=kind, label=label, **unseen)
    for kind in ('knn', 'probe')
    for label in ('group', 'subgroup')
  }
  return config.variant(c, arg, debug=debug, full=full)


def row(
  name: str, letter: str, title: str, family: str, paper: float, file: str = ''
) -> ConfigDict:
  """`steps`: of this row alone, to compare at equal seconds; 0: as all."""
  file = file or f'configs/table1/{name}.py'
  return ConfigDict(
    dict(config=file, letter=letter, title=title, family=family, paper=paper,
         steps=0),
  )  # fmt: skip


def debug(c) -> None:
  """Two rows of three steps."""
  c.update(steps=3, batch_size=16, best_by='probe/top1')
  c.shrink.model = dict(width=32, depth=2, heads=2, hidden=64)
  c.shrink.decoder = dict(width=32, depth=1, heads=2, hidden=64)
  for name in set(c.rows) - {'m3i_nomix', 'm3i'}:
    del c.rows[name]
  c.pairs = (('m3i', 'm3i_nomix'),)
  c.frame.update(log_every=1)
  synthetic = dict(train='train', test='test', label='label')
  c.frame.evals = dict(
    knn=dict(kind='knn', k=5, **synthetic),
    probe=dict(kind='probe', split_by='id', **synthetic),
  )


def full(c) -> None:
  """Three seeds of a ViT-Ti with patches of 6 pixels, 245 epochs each."""
  c.update(seeds=3, steps=2500, batch_size=256)
  c.shrink.model = dict(width=192, depth=12, heads=3, hidden=768)
  c.shrink.decoder = dict(width=128, depth=4, heads=4, hidden=512)
  c.frame.model.patch = 6
  c.frame.model.dtype = 'bfloat16'
