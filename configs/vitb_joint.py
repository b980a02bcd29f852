"""M3I with ViT-B/16 on ImageNet-1k and captioned pictures: labels and texts.

Each picture adds to the targets that it can: of a category, of a text. The two
sources are drawn as their records are many (section 4.1 does so for
InternImage-H); give both a `weight` to change that, and
--config.data.together=4096 for batches of one source each. Captions are such as
m3i_jax.prepare makes of CC12M or YFCC-15M:

  TFDS_DATA_DIR=DIR python -m m3i_jax.main --config=configs/vitb_joint.py \
    --config.data.sources.captions.source=DIR --workdir=W
"""

from configs import vitb
from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = vitb.get_config()
  c.data.update(source='', label='label', text='text', id='')
  c.data.sources = dict(
    imagenet=dict(
      source='tfds:imagenet2012', label='label', text='', id='file_name'
    ),
    captions=dict(source='', label='', text='text', id='id'),
  )
  c.targets.text = recipes.text((0, 1), variant='base')
  c.evals.knn.update(
    train='imagenet/train[:2%]', test='imagenet/validation[:10%]'
  )
  c.panel.split = 'imagenet/validation'
  return config.variant(c, arg)
