"""What the doctor says of sound data, and of broken ones."""

import pathlib
import shutil

import numpy as np
import pytest

from configs import emoji
from m3i_jax import checkup_data, dataset, doctor
from m3i_jax.checkup_data import TRIED, Checkup
from m3i_jax.data import places, texts, tokenizer
from m3i_jax.data.pictures import PictureError
from m3i_jax.prepare import writer
from tests import small


class Some:
  """Pictures, of which some cannot be read."""

  classes = ('a', 'b')

  def __init__(self, bad=(), torn=(), label=1, text=('a',), count=8):
    self.bad, self.torn, self.label, self.text = bad, torn, label, text
    self.fields = type('Fields', (), dict(label='label', text='text'))
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    if i in self.torn:
      raise PictureError('unreadable record: hash mismatch')
    image = b'no' if i in self.bad else np.zeros((2, 2, 3), np.uint8)
    told = {'label': self.label, 'text': self.text, 'tags': ()}
    return told | {'image': image, 'id': f'p{i}'}


@pytest.fixture
def given(monkeypatch):
  """A checkup of the emoji config, with another source in its place."""

  def make(source):
    monkeypatch.setattr(dataset, 'open_split', lambda *_: source)
    monkeypatch.setattr(dataset, 'check_splits', lambda *_: None)
    return Checkup(emoji.get_config('debug'), pathlib.Path('none'))

  return make


def of(place, **fields) -> Checkup:
  """A checkup of a directory, on which nothing is evaluated."""
  c = emoji.get_config()
  c.data.update(source=str(place), split='train', **fields)
  c.evals, c.panel.split = {}, 'train'
  return Checkup(c, pathlib.Path('none'))


def looked_at(checkup: Checkup, page: str = '') -> dict:
  return {n: doctor.looked_at(n, look) for n, look in checkup.looks(page)}


@pytest.mark.parametrize(
  ('bad', 'status'), [((), 'ok'), ((3,), 'warn'), ((3, 5), 'fail')]
)
@pytest.mark.parametrize('how', ['bad', 'torn'])
def test_pictures_that_cannot_be_read(given, bad, status, how):
  found = looked_at(given(Some(**{how: bad})))
  assert found['data'].status == status
  assert '8 pictures, 2 classes' in found['data'].told
  name = 'p{} (' if how == 'bad' else 'record {} (unreadable record: hash'
  assert all(name.format(i) in found['data'].told for i in bad)
  # Nothing else is asked of data that are broken.
  assert ('splits' in found) == (status != 'fail')


def test_a_split_without_pictures(given):
  found = looked_at(given(Some(count=0)))
  assert list(found) == ['data'] and found['data'].status == 'fail'


def test_pictures_are_tried_all_over(given):
  far = Some(bad={10**6 * (TRIED - 1) // TRIED}, count=10**6)
  assert 'p968750 (' in looked_at(given(far))['data'].told


def test_a_field_that_nobody_has(given):
  for source, count in (
    (Some(label=-1), '0 have a label and 8 have a caption'),
    (Some(text=()), '8 have a label and 0 have a caption'),
  ):
    found = given(source).part('train')
    assert found.status == 'warn' and count in found.told
    assert 'the right field?' in found.todo


def test_data_without_labels_and_captions(given):
  source = Some(label=-1, text=())
  source.fields.label = source.fields.text = ''
  found = given(source).part('train')
  assert found.status == 'ok' and '; 8 tried, ' in found.told


def test_a_single_label(given):
  source = Some()
  source.classes = ('images',)
  found = given(source).part('train')
  assert found.status == 'warn' and "label is 'images'" in found.todo
  source.fields.label = ''
  assert given(source).part('train').status == 'ok'


@pytest.mark.parametrize('split', ['test', 'validation[:50%]', 'a/test'])
def test_training_on_a_split_that_is_for_tests(given, monkeypatch, split):
  checkup = given(Some())
  monkeypatch.setattr(Checkup, 'parts', lambda _: {split: 'emoji'})
  found = checkup.part(split)
  assert found.status == 'warn' and '--split=train' in found.todo
  for other in ('train', 'tests', 'test/train', 'train+test'):
    monkeypatch.setattr(Checkup, 'parts', lambda _, x=other: {x: 'emoji'})
    assert checkup.part(other).status == 'ok'


def test_how_many_captions_are_cut(given, tmp_path):
  short, long = 'a b c', 'a b c d e f g h i j'
  checkup = given(Some(text=(short, long)))
  words = tokenizer.train_tokenizer([long], 290)
  (tmp_path / 'tokenizer.model').write_bytes(words)
  checkup.workdir = tmp_path
  most = len(tokenizer.Tokenizer(words).pieces(long))
  for length, told in ((most, 'none of 16'), (most - 1, '8 of 16 captions')):
    checkup.config.data.text_length = length
    found = checkup.text()
    assert told in found.told and str(most) in found.told
    assert found.status == ('ok' if length == most else 'warn')
    assert f'of {tmp_path}/tokenizer.model' in found.told


def test_a_tokenizer_that_is_not_there(given):
  checkup = given(Some())
  checkup.config.data.tokenizer = 'no.model'
  found = doctor.looked_at('text', checkup.text)
  assert found.status == 'fail' and 'no.model does not exist' in found.told


def test_each_source_of_a_mixture_and_each_split():
  c = small.small_config()
  c.data.update(source='', tags='', id='')
  c.data.sources = dict(
    emoji=dict(source='emoji', label='subgroup', weight=3.0),
    shapes=dict(source='synthetic:40', text='', weight=1.0),
  )
  c.panel.split = 'shapes/test'
  c.evals = dict(knn=dict(
    kind='knn', train='emoji/train', test='emoji/vendor', label='subgroup'
  ))  # fmt: skip
  checkup = Checkup(c, pathlib.Path('none'))
  assert list(checkup.parts()) == ['emoji/train', 'shapes/train']
  told = [x.told for x in map(checkup.part, checkup.parts())]
  assert told[0].startswith('emoji/train of emoji: 2,608 pictures, 95 classes')
  assert '32 have a label and 32 have a caption' in told[0]
  assert told[1].startswith('shapes/train of synthetic:40: 40 pictures')
  assert '32 have a label, ' in told[1] and 'caption' not in told[1]
  for split in ('emoji/train 2,608', 'emoji/vendor 1,288', 'shapes/test 40'):
    assert split in checkup.splits().told


def test_a_mistake_in_a_mixture_is_told_once(capsys):
  c = small.small_config()
  c.data.update(source='')
  c.data.sources = dict(one=dict(source=''))
  found = looked_at(Checkup(c, pathlib.Path('none')))
  assert list(found) == ['data'] and found['data'].status == 'fail'
  assert capsys.readouterr().out.count('source is empty') == 1


@pytest.fixture
def bundled(tmp_path):
  """A copy of a data set without a manifest, and its shards."""
  place = tmp_path / 'data'
  shutil.copytree(places.directory('emoji'), place)
  return place, sorted(place.glob('*train.array_record*'))


def test_sound_shards_without_a_manifest(bundled):
  assert checkup_data.damaged(str(bundled[0]), full=True) == []


def _flip(shard: pathlib.Path):
  content = bytearray(shard.read_bytes())
  content[len(content) // 2] ^= 255
  shard.write_bytes(content)


@pytest.mark.parametrize(
  ('damage', 'told', 'full'),
  [
    (pathlib.Path.unlink, 'is missing (', False),
    (lambda x: x.write_bytes(b''), '', False),
    (lambda x: x.write_bytes(x.read_bytes()[:70_000]), '', False),
    (_flip, 'is damaged: ', True),
  ],
)
def test_a_damaged_shard_is_named(bundled, damage, told, full):
  place, shards = bundled
  damage(shards[-1])
  [line] = checkup_data.damaged(str(place), full)
  assert line.startswith(f'{shards[-1]} ') and told in line
  checkup = of(place, label='subgroup', text='caption', tags='', id='id')
  checkup.full = full
  found = looked_at(checkup)
  assert list(found) == ['data'] and found['data'].status == 'fail'
  assert shards[-1].name in found['data'].told


def test_a_prepare_that_was_stopped(bundled):
  (bundled[0] / writer.UNFINISHED).mkdir()
  found = looked_at(of(bundled[0]))['data']
  assert found.status == 'fail' and 'run the same command again' in found.told


def test_the_page(tmp_path):
  c = small.small_config()
  c.data.update(source='synthetic:40', vocabulary=300, text_length=16)
  file = tmp_path / 'page.html'
  found = looked_at(Checkup(c, tmp_path), str(file))
  assert found['page'].status == 'ok'
  text = file.read_text()
  assert text.count('<article>') == checkup_data.SHOWN
  assert 'train of synthetic:40' in text and 'mixed with' in text
  assert found['text'].status == 'ok' and 'trained on' in found['text'].told
  source = dataset.open_split(c, 'train')
  assert str(len(texts.captions(source))) in found['text'].told
