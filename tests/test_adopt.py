"""`--config.data=DATA` in configs that were written for other data."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import emoji, mug, vitb
from m3i_jax import adopt, build, dataset, main
from m3i_jax.data.describe import describe
from m3i_jax.data.sources import Fields
from m3i_jax.errors import UserError


def made(place, features: dict, splits: dict[str, int]) -> str:
  """A TFDS directory with these features; the pictures are noise."""
  values = {
    'image': lambda n: _png(n), 'label': lambda n: n % 2, 'fine': lambda n: 0,
    'id': str, 'caption': lambda n: [f'picture {n}'], 'file_name': str,
  }  # fmt: skip

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION, name = tfds.core.Version('1.0.0'), 'made'

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {
        name: self._generate_examples(n) for name, n in splits.items()
      }

    def _generate_examples(self, count):
      for n in range(count):
        yield n, {name: values[name](n) for name in features}

  builder = Made(data_dir=str(place), file_format='array_record')
  builder.download_and_prepare()
  return str(builder.data_dir)


def _png(n: int):
  file = io.BytesIO()
  pixels = np.random.default_rng(n).integers(0, 256, (9, 8, 3), np.uint8)
  Image.fromarray(pixels).save(file, 'PNG')
  file.seek(0)
  return file


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
  f = tfds.features
  return made(
    tmp_path_factory.mktemp('labelled'),
    dict(image=f.Image(), label=f.ClassLabel(num_classes=2),
         file_name=f.Text()),
    dict(train=8, validation=4),
  )  # fmt: skip


@pytest.fixture(scope='module')
def captioned(tmp_path_factory):
  f = tfds.features
  return made(
    tmp_path_factory.mktemp('captioned'),
    dict(image=f.Image(), caption=f.Sequence(f.Text()), id=f.Text()),
    dict(everything=10),
  )


def test_what_is_known_of_a_data_set(labelled, captioned):
  one = describe(labelled)
  assert one.splits == {'train': 8, 'validation': 4}
  assert one.fields == Fields(label='label', id='file_name')
  assert describe(captioned).fields == Fields(text='caption', id='id')
  assert describe('emoji').fields.label == 'subgroup'
  assert describe('synthetic:9').splits == {'train': 9, 'test': 9}


def test_labels_alone(labelled):
  c = emoji.get_config()
  told = adopt.adopt(c, labelled, set())
  assert set(c.targets) == {'intra', 'inter', 'category'}
  assert c.data.source == labelled and c.data.label == 'label'
  assert not c.data.text and not c.data.tags and c.data.id == 'file_name'
  assert c.evals.to_dict() == {'knn': dict(
    kind='knn', train='train', test='validation', label='label'
  )}  # fmt: skip
  assert c.panel.split == 'validation' and c.features == 'pool'
  assert any('config.targets.text, there are no captions' in x for x in told)
  assert told[-1] == 'targets: category, inter, intra'
  assert told[-2].startswith('config.evals: concept_1nn, group_knn, ')
  assert told[-2].endswith(
    ", zeroshot replaced by knn train -> validation, by 'label'"
  )
  assert not any('left out: config.evals' in line for line in told)
  dataset.check_splits(c, build.evaluators(c))
  assert len(dataset.open_split(c, c.data.split)) == 8


def test_a_large_bank_is_thinned(labelled, monkeypatch):
  monkeypatch.setattr(adopt, '_BANK', 3)
  c = vitb.get_config()
  adopt.adopt(c, labelled, set())
  assert c.evals.knn.train == 'train[::3]'
  assert len(dataset.open_split(c, c.evals.knn.train)) == 3


def test_captions_alone(captioned):
  c = vitb.get_config()
  told = adopt.adopt(c, captioned, set())
  assert told[-2].startswith('left out: config.evals ')
  assert set(c.targets) == {'intra', 'inter'}
  assert c.features == '' and not c.evals.keys()
  assert c.data.split == 'everything' and c.panel.split == ''
  assert c.data.text == ''  # no target reads it
  c = mug.get_config()
  adopt.adopt(c, captioned, set())
  assert c.data.text == 'caption' and 'text' in {
    row.of for row in c.targets.values()
  }
  dataset.check_splits(c, build.evaluators(c))


def test_what_other_flags_say_stays(labelled):
  c = emoji.get_config()
  c.data.split = 'validation'
  adopt.adopt(c, labelled, {'data.split', 'batch_size'})
  assert c.data.split == 'validation'


def test_evaluators_that_fit_stay():
  c = emoji.get_config()
  before = c.evals.to_dict()
  adopt.adopt(c, 'emoji', set())
  assert c.evals.to_dict() == before and c.panel.split == 'vendor'
  assert dataset.open_split(c, 'train').classes


def test_a_mixture(labelled, captioned):
  c = emoji.get_config()
  adopt.adopt(c, f'{labelled}*3,{captioned}*1', set())
  assert set(c.targets) == {'intra', 'inter', 'category', 'text'}
  source = dataset.open_split(c, c.data.split)
  assert len(source) == 18 and source.shares == (3.0, 1.0)
  assert source[0]['label'] >= 0 and not source[0]['text']
  assert source[17]['label'] == -1 and source[17]['text']
  (one, other) = c.data.sources
  assert c.evals.knn.test == f'{one}/validation' and other != one
  dataset.check_splits(c, build.evaluators(c))
  c = emoji.get_config()
  adopt.adopt(c, f'{labelled},{captioned}', set())
  assert dataset.open_split(c, 'train').shares == (8.0, 10.0)


@pytest.mark.parametrize('wanted, line', [
  ('synthetic*', 'say NAME, or'), ('a,,b', 'say NAME, or'),
  ('synthetic*-1', 'say NAME, or'), ('', 'say NAME, or'),
  ('/nowhere', 'no prepared data set'), ('tfds:nothing', 'tfds build nothing'),
  ('synthetic*1,synthetic', 'give each a weight or none'),
])  # fmt: skip
def test_mistakes_in_the_flag(wanted, line):
  c = emoji.get_config()
  with pytest.raises(UserError, match=line.replace('(', r'\(')):
    adopt.adopt(c, wanted, set())
    dataset.open_split(c, c.data.split)


def test_no_target_remains(captioned):
  c = vitb.get_config()
  del c.targets.intra, c.targets.inter
  with pytest.raises(UserError, match='no target remains'):
    adopt.adopt(c, captioned, set())


def test_pictures_that_are_not_prepared(tmp_path):
  (tmp_path / 'cat').mkdir()
  with pytest.raises(UserError, match='python -m m3i_jax.prepare'):
    describe(str(tmp_path))
  (tmp_path / '.unfinished').mkdir()
  with pytest.raises(UserError, match='run the same command again'):
    describe(str(tmp_path))


def test_a_damaged_description(labelled, tmp_path):
  (tmp_path / 'dataset_info.json').write_text('{')
  with pytest.raises(UserError, match='TFDS cannot read its description'):
    describe(str(tmp_path))


def test_the_command_line(labelled):
  script = (
    'import sys; from absl import flags; from m3i_jax import main;'
    'main.parse(["main", *sys.argv[1:]]); c = flags.FLAGS.config;'
    'print(c.data.source, c.data.split, c.batch_size, sorted(c.targets))'
  )
  done = subprocess.run(
    [sys.executable, '-c', script, '--config=configs/emoji.py:debug',
     '--workdir=w', '--config.data=synthetic', f'--config.data={labelled}',
     '--config.data.split=validation', '--config.batch_size=8'],
    capture_output=True, text=True, cwd=main.__file__.rpartition('m3i_jax')[0],
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stdout.split('\n')[0] == (
    f"{labelled} validation 8 ['category', 'inter', 'intra']"
  )
  assert 'left out: config.targets.text' in done.stderr
