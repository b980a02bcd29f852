"""What a data set has, without reading a record of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from m3i_jax.data import places, synthetic
from m3i_jax.data.sources import Fields, open_synthetic

_EMOJI = Fields(label='subgroup', text='caption', tags='keywords', id='id')
_SYNTHETIC = Fields(label='label', text='caption', tags='tags', id='id')
_CAPTIONS = ('text', 'texts', 'caption', 'captions', 'sentence', 'sentences',
             'description', 'title')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Described:
  """What a data set has: records by split, and which field plays which part."""

  splits: Mapping[str, int]
  fields: Fields
  features: tuple[str, ...]


def describe(name: str) -> Described:
  """Looks at what is known of a data set without reading a record.

  Its fields play the parts that their types and usual names suggest.

  Raises:
    UserError: no such data set.
  """
  if name.split(':')[0] == 'synthetic':
    length = len(open_synthetic(name, 'train'))
    return Described(
      dict.fromkeys(synthetic.SPLITS, length), _SYNTHETIC, synthetic.FEATURES
    )
  directory = places.directory(name)
  builder = places.builder(directory)
  splits = {
      split: info.num_examples for split, info in builder.info.splits.items()
  }
  features = builder.info.features
  bundled = directory.parent == places.EMOJI64
  fields = _EMOJI if bundled else _guessed(features)
  return Described(splits, fields, tuple(features))


def _guessed(features: Mapping[str, Any]) -> Fields:
  """Fields by type; of several of a type, the one with the most usual name."""
  import tensorflow_datasets as tfds

  def found(kind: type, *usual: str, others: bool = False) -> str:
    names = [
        name
        for name, feature in features.items()
        if isinstance(feature, kind)
        or kind is tfds.features.Text
        and isinstance(getattr(feature, 'feature', None), kind)
    ]
    named = [name for name in usual if name in names]
    if others and len(names) == 1:
      named = named or names
    return named[0] if named else ''

  return Fields(
      image=found(tfds.features.Image, 'image', others=True) or 'image',
      label=found(tfds.features.ClassLabel, 'label', others=True),
      text=found(tfds.features.Text, *_CAPTIONS),
      tags=found(tfds.features.Text, 'tags', 'keywords'),
      id=found(tfds.features.Text, 'id', 'file_name', 'filename', 'image_id'),
  )
