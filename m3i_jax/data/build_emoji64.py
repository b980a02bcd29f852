"""Writes the bundled emoji64 data set as a TFDS directory in ArrayRecord.

    python -m m3i_jax.data.build_emoji64 emoji64.zip OUT

reads a zip of pictures `VENDOR/CODEPOINTS.webp` and `concepts.json`, and
writes OUT/emoji64/1.0.0. The pictures are stored as the bytes they are.

A split by emoji would leak: 'man cook' in training all but shows 'woman cook'.
So a concept belongs to a family, and whole families are held out.

| split          | vendors       | families | records | concepts |
|----------------|---------------|----------|---------|----------|
| train          | noto, twemoji | seen     |    2608 |     1318 |
| heldout        | noto, twemoji | held out |     622 |      311 |
| vendor         | fluent3d      | seen     |    1288 |     1288 |
| vendor_heldout | fluent3d      | held out |     311 |      311 |

There are 1,313 families. Every subgroup has pictures in training; 80 of the 95
occur among the held-out concepts.
"""

import hashlib
import json
import pathlib
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

VERSION = '1.0.0'
VENDORS = ('noto', 'twemoji', 'fluent3d')
UNSEEN_VENDOR = 'fluent3d'
SPLITS = ('train', 'heldout', 'vendor', 'vendor_heldout')

_PERSONS = frozenset(
    '1f9d1 1f468 1f469 1f9d2 1f466 1f467 1f476 1f9d3 1f474 1f475'.split()
)
# Joiner, gender signs, 'facing right', hair, skin tones.
_MODIFIERS = frozenset(
    '200d fe0f 2640 2642 27a1 1f9b0 1f9b1 1f9b2 1f9b3'
    ' 1f3fb 1f3fc 1f3fd 1f3fe 1f3ff'.split()
)
_MERGED = {
    'clock': [f'{code:x}' for code in range(0x1f550, 0x1f568)],
    'moon': [f'{code:x}' for code in range(0x1f311, 0x1f31e)],
    # Persons whose sexes have code points of their own.
    'person': ['1f471', '1f9d4'],
    'royal': ['1f934', '1f478', '1fac5'],
    'claus': ['1f385', '1f936', '1f384'],
    'dancer': ['1f483', '1f57a'],
    'pregnant': ['1f930', '1fac3', '1fac4'],
    'nursing': ['1f931', '1f37c'],
}
# The first number that keeps every subgroup and all families of ten and more in
# training, and holds out one concept in five.
_SALT = '22:'
_FAMILY_OF = {code: name for name, codes in _MERGED.items() for code in codes}


def family(concept: dict[str, Any]) -> str:
  """The name shared by concepts whose pictures give each other away."""
  if concept['subgroup'] in ('family', 'keycap'):
    return concept['subgroup']
  if concept['name'].startswith('family'):
    return 'family'
  codes = concept['key'].split('-')
  if len(codes) == 1 and codes[0] not in _PERSONS:
    core = codes
  else:
    core = [c for c in codes if c not in _PERSONS and c not in _MODIFIERS]
  name = core[0] if core else 'person'  # 'black cat' goes with 'cat'
  return _FAMILY_OF.get(name, name)


def held_out(concept: dict[str, Any]) -> bool:
  """Whether the concept's family is kept out of training: about one in five."""
  digest = hashlib.sha256((_SALT + family(concept)).encode()).digest()
  return int.from_bytes(digest[:8], 'big') % 5 == 0


def split_of(vendor: str, concept: dict[str, Any]) -> str:
  """The split that a vendor's picture of a concept belongs to."""
  if vendor == UNSEEN_VENDOR:
    return 'vendor_heldout' if held_out(concept) else 'vendor'
  return 'heldout' if held_out(concept) else 'train'


def _features(concepts: list[dict[str, Any]]) -> tfds.features.FeaturesDict:
  def names(field: str) -> list[str]:
    return list(dict.fromkeys(concept[field] for concept in concepts))

  return tfds.features.FeaturesDict({
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=(64, 64, 3)),
      'caption': tfds.features.Text(),
      'keywords': tfds.features.Sequence(tfds.features.Text()),
      'group': tfds.features.ClassLabel(names=names('group')),
      'subgroup': tfds.features.ClassLabel(names=names('subgroup')),
      'vendor': tfds.features.ClassLabel(names=list(VENDORS)),
      'concept': tfds.features.Text(),
  })


class Emoji64(tfds.core.GeneratorBasedBuilder):
  """Emoji of three vendors, 64x64 on white, with names and keywords."""

  VERSION = tfds.core.Version(VERSION)
  name = 'emoji64'
  __module__ = 'm3i_jax.data.build_emoji64'  # also when run as a script

  def __init__(self, archive: str, **kwargs):
    self._zip = zipfile.ZipFile(archive)
    self._concepts = json.loads(self._zip.read('concepts.json'))
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=(
            'Pictures of emoji by Noto, Twemoji and Fluent, 64x64 RGB on white,'
            ' with CLDR names and keywords. See NOTICE.md for the licences.'
        ),
        features=_features(self._concepts),
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
    present = set(self._zip.namelist())
    for concept in self._concepts:
      for vendor in VENDORS:
        path = f'{vendor}/{concept["key"]}.webp'
        if path in present and split_of(vendor, concept) == split:
          yield path, {
              'id': path.removesuffix('.webp'),
              'image': self._zip.read(path),
              'caption': concept['name'],
              'keywords': concept['keywords'],
              'group': concept['group'],
              'subgroup': concept['subgroup'],
              'vendor': vendor,
              'concept': concept['key'],
          }


def _make_canonical(path: pathlib.Path) -> None:
  """Rewrites a shard with sorted fields: protobuf leaves a map's order open."""
  reader = array_record_module.ArrayRecordReader(str(path))
  records = [reader.read([i])[0] for i in range(reader.num_records())]
  reader.close()
  partial = path.with_name(path.name + '.tmp')
  writer = array_record_module.ArrayRecordWriter(str(partial), 'group_size:1')
  for record in records:
    example = tf_example_pb2.Example.FromString(record)
    writer.write(example.SerializeToString(deterministic=True))
  writer.close()
  partial.replace(path)


def build(archive: str, out: str) -> str:
  """Writes OUT/emoji64/1.0.0 from the zip file and returns that directory.

  The same zip file gives the same bytes.
  """
  builder = Emoji64(archive, data_dir=out)
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  for path in sorted(pathlib.Path(builder.data_dir).glob('*.array_record*')):
    _make_canonical(path)
  return str(builder.data_dir)


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit('usage: python -m m3i_jax.data.build_emoji64 emoji64.zip OUT')
  print(build(sys.argv[1], sys.argv[2]))
