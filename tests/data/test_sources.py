"""Opening data sets, naming their fields."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from m3i_jax.data import pipeline, places, sources
from m3i_jax.data.crops import Crop
from m3i_jax.data.mixture import order_of
from m3i_jax.data.pictures import PictureError, decode
from m3i_jax.data.sources import Fields, open_source
from m3i_jax.errors import UserError

EMOJI = Fields(label='group', text='caption', tags='keywords', id='id')
DIRECTORY = str(places.EMOJI64)


def test_a_record_of_emoji64():
  source = open_source('emoji64', 'train', EMOJI)
  rows = [source[i] for i in range(len(source))]
  row = next(row for row in rows if row['id'] == 'noto/1f436')
  assert row['image'].shape == (64, 64, 3) and row['image'].dtype == np.uint8
  assert row['text'] == ('dog face',)
  assert set(row['tags']) >= {'animal', 'dog', 'pet'}
  assert source.classes[row['label']] == 'Animals & Nature'
  assert source.names['subgroup'][row['subgroup']] == 'animal-mammal'
  assert row['concept'] == '1f436'


def test_fields_left_out():
  row = open_source('emoji64', 'train', Fields())[5]
  assert row['label'] == -1 and row['id'] == '5'
  assert row['text'] == row['tags'] == ()


def test_a_directory_and_its_parent_are_the_same_data_set(tmp_path):
  (tmp_path / '0.9.0').mkdir()  # holds no data set, so it is no version
  one = open_source(f'{DIRECTORY}/1.0.0', 'vendor', EMOJI)
  two = open_source(DIRECTORY, 'vendor', EMOJI)
  np.testing.assert_equal(one[3], two[3])


def test_a_prepared_tfds_name(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  (tmp_path / 'mine').symlink_to(DIRECTORY)
  assert len(open_source('tfds:mine', 'vendor', EMOJI)) == 1288
  assert len(open_source('tfds:mine:1.0.0', 'vendor', EMOJI)) == 1288
  with pytest.raises(UserError, match='tfds build mine'):
    open_source('tfds:mine:2.0.0', 'vendor', EMOJI)


def test_the_newest_version_counts_by_number(tmp_path):
  for version in ('2.0.0', '10.0.0', 'other'):
    (tmp_path / version).mkdir()
    (tmp_path / version / 'dataset_info.json').touch()
  assert places._newest_version(places.epath.Path(tmp_path)).name == '10.0.0'


def test_splits_are_joined_and_cut():
  both = open_source('emoji64', 'vendor+vendor_heldout', EMOJI)
  last = open_source('emoji64', 'vendor_heldout', EMOJI)
  assert len(both) == 1599
  assert both[1288]['id'] == last[0]['id']
  assert len(open_source('emoji64', 'train[:10%]', EMOJI)) == 261


@pytest.mark.parametrize(
    ('name', 'split', 'fields', 'message'),
    [
        ('imagenot', 'train', Fields(), "no prepared data set 'imagenot'"),
        ('tfds:nothing', 'train', Fields(), 'TFDS_DATA_DIR'),
        ('emoji64', 'trian', Fields(), 'train, heldout, vendor'),
        ('emoji64', 'train', Fields(label='grp'), "'grp' .label.: it has capt"),
        ('emoji64', 'train', Fields(label='caption'), 'no class label'),
        ('emoji64', 'train', Fields(image=''), 'no field'),
        ('emoji64', 'train[:0]', Fields(), 'cannot read split'),
        ('synthetic', 'validation', Fields(), 'train, test'),
        ('synthetic:many', 'train', Fields(), 'synthetic.:LENGTH'),
        ('synthetic:9:99', 'train', Fields(), 'CLASSES in 1..24'),
        ('synthetic:9:2:1', 'train', Fields(), 'synthetic.:LENGTH'),
    ],
)
def test_mistakes_take_one_line(name, split, fields, message):
  with pytest.raises(UserError, match=message) as caught:
    open_source(name, split, fields)
  assert '\n' not in str(caught.value)


def test_synthetic_is_a_function_of_split_and_index():
  fields = Fields(label='label', text='caption', tags='tags')
  one = open_source('synthetic:50:10', 'train', fields)
  two = open_source('synthetic:50:10', 'train', fields)
  other = open_source('synthetic:50:10', 'test', fields)
  assert len(one) == 50 and len(one.classes) == 10
  np.testing.assert_equal(one[13], two[13])
  assert one[13]['label'] == other[13]['label'] == 3
  assert (one[13]['image'] != other[13]['image']).any()
  assert one[13]['text'] == (f'a {one.classes[3]}',)


def test_synthetic_shapes_have_their_colour():
  source = open_source('synthetic:24', 'train', Fields(label='label'))
  for i in range(24):
    colour, shape = source.classes[i].split()
    picture = source[i]['image'].astype(int)
    ground = np.median(picture[:, 0], axis=0)
    covered = (abs(picture - ground) > 40).any(-1)
    share = {'circle': .785, 'square': .9, 'ring': .55, 'cross': .55}[shape]
    box = np.argwhere(covered)
    area = np.prod(box.max(0) - box.min(0) + 1)
    assert covered.sum() / area > share - .1
    if colour in ('red', 'green', 'blue'):
      mean = picture[covered].mean(0)
      assert mean.argmax() == ('red', 'green', 'blue').index(colour)


def test_small_sources_are_decoded_once(monkeypatch):
  calls = []
  monkeypatch.setattr(
      sources, 'decode', lambda image: calls.append(1) or decode(image)
  )
  source = open_source('emoji64', 'vendor', EMOJI)
  calls.clear()
  first, again = source[9], source[9]
  assert len(calls) == 1
  again['label'] = 99  # a reader's own copy
  assert source[9]['label'] == first['label'] != 99
  with pytest.raises(ValueError, match='read-only'):
    first['image'][0] = 0
  np.testing.assert_equal(pickle.loads(pickle.dumps(source))[9], first)


def test_large_sources_stay_encoded(monkeypatch):
  monkeypatch.setattr(sources, 'MEMORY_BUDGET', 1000)
  image = open_source('emoji64', 'vendor', EMOJI)[9]['image']
  assert isinstance(image, bytes) and image[8:12] == b'WEBP'
  assert decode(image).shape == (64, 64, 3)


def test_tensorflow_stays_out():
  code = (
      'import sys; from m3i_jax.data import pipeline, sources;'
      'f = sources.Fields(); s = sources.open_source("emoji64", "train", f);'
      'r = pipeline.Recipe({"a": pipeline.Crop(8)});'
      'next(pipeline.loader(s, r, seed=0, batch_size=2, start_step=0,'
      ' stop_step=1)); sys.exit("tensorflow" in sys.modules)'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_every_nth_record():
  whole = open_source('emoji64', 'train', EMOJI)
  some = open_source('emoji64', 'train[::300]', EMOJI)
  assert len(some) == 9 and some.classes == whole.classes
  wanted = [whole[i]['id'] for i in range(0, 2608, 300)]
  assert [record['id'] for record in some] == wanted
  part = open_source('emoji64', 'train[:50%][::2]', EMOJI)
  assert len(part) == 652
  with pytest.raises(UserError, match='cannot read split'):
    open_source('emoji64', 'train[::0]', EMOJI)


def damaged(place, length):
  """The training pictures, so many bytes of their shard being zeros."""
  shutil.copytree(places.EMOJI64 / '1.0.0', place / '1.0.0')
  (shard,) = (place / '1.0.0').glob('*-train.*')
  data = bytearray(shard.read_bytes())
  data[1_000_000 : 1_000_000 + length] = bytes(length)
  shard.write_bytes(data)
  return open_source(str(place), 'train', EMOJI)


def test_a_damaged_shard_costs_its_records_alone(tmp_path):
  source = damaged(tmp_path, 100)
  whole = open_source('emoji64', 'train', EMOJI)
  bad = []
  for i in range(len(source)):
    try:
      np.testing.assert_array_equal(source[i]['image'], whole[i]['image'])
    except PictureError as error:
      assert 'unreadable record' in str(error)
      bad.append(i)
  assert 1 <= len(bad) < 100
  crops = {'a': Crop(8)}
  order = order_of(source, 0)
  position = next(p for p in range(len(source)) if order[p] == bad[0])
  row = pipeline.sample(source, 0, position, pipeline.Recipe(crops))
  assert row['replaced'] and row['record'] not in bad


def test_a_missing_shard_is_named(tmp_path):
  shutil.copytree(places.EMOJI64 / '1.0.0', tmp_path / '1.0.0')
  (shard,) = (tmp_path / '1.0.0').glob('*-vendor.*')
  shard.unlink()
  assert len(open_source(str(tmp_path), 'train', EMOJI)) == 2608
  with pytest.raises(UserError, match=f'{shard.name} is missing, 1 of 1'):
    open_source(str(tmp_path), 'vendor[:10%]', EMOJI)


def test_a_shard_damaged_in_one_piece_does_not_end_a_run(tmp_path):
  source = damaged(tmp_path, 300_000)
  recipe = pipeline.Recipe({'a': Crop(8)})
  rows = [pipeline.sample(source, 0, p, recipe) for p in range(300)]
  assert sum(row['replaced'] for row in rows) > 10


def test_only_small_pictures_of_a_source_are_kept(monkeypatch):
  class Sizes:
    classes, names, fields = (), {}, Fields()
    read = []

    def __len__(self):
      return 4

    def __getitem__(self, i):
      self.read.append(i)
      side = (16, 300)[i % 2]
      return {'image': np.zeros((side, side, 3), np.uint8), 'id': str(i)}

  monkeypatch.setattr(sources, 'MEMORY_BUDGET', 4 * 3 * 100 * 100)
  kept = sources._keep_if_small(Sizes())
  for _ in range(3):
    for i in range(4):
      kept[i]
  assert sorted(Sizes.read) == [0, 1, 1, 1, 2, 3, 3, 3]


def test_as_many_files_may_be_open_as_the_system_allows():
  script = (
    'import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, 4000));'
    'from m3i_jax.data import sources;'
    'sources.open_source("emoji", "train", sources.Fields());'
    'print(r.getrlimit(r.RLIMIT_NOFILE))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True
  )
  assert done.stdout.strip() == '(4000, 4000)', done.stderr
