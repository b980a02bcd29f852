"""CLIP (Radford et al. 2021): picture -> text, InfoNCE over the batch.

The recipe of SLIP's CLIP (Mu et al. 2022, its code): a text tower 12 layers
deep and 512 wide, the class token as the picture's vector, crops, 25 epochs.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = recipes.captioned_vitb('tfds:yfcc15m', 14_850_000, epochs=25)
  recipes.geometry(c.views.a, smallest=0.5)
  c.data.update(text_length=77, vocabulary=49408)
  c.model.update(drop_path=0.0, final_norm=True)
  c.decoders = dict(pool=dict(kind='mlp', pool='cls', out=512))
  c.targets.text = recipes.text(
    width=512, depth=12, heads=8, hidden=2048, positions=77
  )
  c.optimizer.update(
    learning_rate=5e-4, weight_decay=0.5, b1=0.9, b2=0.98, warmup=1 / 25
  )
  return config.variant(c, arg)
