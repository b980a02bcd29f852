"""MUG (Zhao et al. 2023): a quarter of a picture -> its pixels, its caption.

The picture's branch is MAE's. The text decoder has layers that see the text
alone, then ones that look at the picture; L = 1.0 L_V + 0.1 L_L. The number of
its layers, the length of the texts and the optimizer (MAE's) are assumed: no
code was published.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.captioned_vitb('tfds:cc3m', 3_000_000, epochs=400)
  recipes.geometry(c.views.a, smallest=0.2)
  c.data.update(text_length=64, vocabulary=30522)
  c.input = dict(view='a', images=1, mask=0.75, pattern='random', hidden='drop')
  c.model.update(final_norm=True, drop_path=0.0)
  c.decoders = dict(dense=recipes.MAE, caption=recipes.CAPTION)
  c.targets.pixels = recipes.pixels('a', cells='hidden')
  c.targets.caption = recipes.caption()
  c.balance = dict(kind='fixed', value=0.1)
  c.optimizer.update(learning_rate=2.4e-3, weight_decay=0.05, clip=0.0)
  return config.variant(c, arg)
