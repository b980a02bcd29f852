"""Several sources as one: labels, ids, shares, missing fields."""

import pickle

import jax
import numpy as np
import pytest

from m3i_jax.data import mixture
from m3i_jax.data.crops import Crop
from m3i_jax.data.mixture import Mixture, order_of
from m3i_jax.data.pipeline import Recipe, Text, loader, sample
from m3i_jax.data.sources import Fields, open_source
from m3i_jax.data.tokenizer import Tokenizer, train_tokenizer
from m3i_jax.errors import UserError

VIEWS = {'a': Crop(8), 'b': Crop(8)}


class Broken:
  """A source of which every fifth picture cannot be read."""

  def __init__(self, source):
    self._source = source
    self.classes, self.names = source.classes, source.names
    self.fields = source.fields

  def __len__(self):
    return len(self._source)

  def __getitem__(self, i):
    record = self._source[i]
    return record | {'image': b''} if i % 5 == 2 else record


@pytest.fixture(scope='module')
def mixed():
  """Labels, captions, neither: 5 : 3 : 2."""
  return Mixture(
    {
      'labels': open_source('synthetic:60:6', 'train', Fields(label='label')),
      'texts': Broken(
        open_source('synthetic:40:8', 'test', Fields(text='caption'))
      ),
      'bare': open_source('synthetic:31', 'train', Fields()),
    },
    {'labels': 5, 'texts': 3, 'bare': 2},
  )


@pytest.fixture(scope='module')
def recipe():
  words = train_tokenizer(['a red circle', 'a blue square'] * 20, 300)
  return Recipe(VIEWS, label=True, text=Text(Tokenizer(words), 12))


def test_records_keep_their_source(mixed):
  assert len(mixed) == 131
  assert mixed[0]['id'] == 'labels/0' and mixed[60]['id'] == 'texts/0'
  assert mixed[130]['id'] == 'bare/30'
  assert mixed.fields == Fields(label='label', text='caption')
  assert [mixed[i]['label'] for i in (7, 60, 100)] == [1, -1, -1]
  assert [bool(mixed[i]['text']) for i in (7, 60, 100)] == [False, True, False]
  with pytest.raises(IndexError):
    mixed[131]


def test_classes_of_one_name_are_one_class():
  label = Fields(label='label')
  two = Mixture(
    {
      'few': open_source('synthetic:12:2', 'train', label),
      'many': open_source('synthetic:12:4', 'train', label),
      'few2': open_source('synthetic:12:3', 'test', label),
    },
    {'few': 1, 'many': 1, 'few2': 1},
  )
  assert two.classes == open_source('synthetic:9:4', 'train', label).classes
  assert [two[i]['label'] for i in (1, 12, 15, 26)] == [1, 0, 3, 2]


def test_classes_of_other_names_follow():
  emoji = open_source('emoji', 'train', Fields(label='group'))
  drawn = open_source('synthetic:12:2', 'train', Fields(label='label'))
  both = Mixture({'a': drawn, 'b': emoji}, {'a': 1, 'b': 1})
  assert both.classes == (*drawn.classes, *emoji.classes)
  assert both[12]['label'] == 2 + emoji[0]['label']


def test_what_a_record_lacks_is_none_in_its_row(mixed, recipe):
  order = order_of(mixed, 4)
  for position in range(60):
    row = sample(mixed, 4, position, recipe)
    source = mixed[int(row['record'])]['id'].split('/')[0]
    assert source == mixed[order[position]]['id'].split('/')[0]
    assert (row['label'] >= 0) == (source == 'labels')
    assert row['text'].any() == (source == 'texts')


def batches(mixed, recipe, local=slice(None), **more):
  return list(loader(
    mixed, recipe, seed=7, batch_size=12, start_step=3, stop_step=6,
    local=local, **more,
  ))  # fmt: skip


@pytest.mark.parametrize('count', [1, 2, 4])
def test_processes_make_the_same_batches(mixed, recipe, count):
  whole = batches(mixed, recipe)
  assert any(batch['replaced'].any() for batch in whole)
  rows = [np.arange(first, 12, count) for first in range(count)]
  parts = [batches(mixed, recipe, own, threads=2) for own in rows]
  for mine, wanted in zip(zip(*parts, strict=True), whole, strict=True):
    found = jax.tree.map(lambda *x: np.concatenate(x), *mine)
    jax.tree.map(
      lambda a, b: np.testing.assert_array_equal(a, b[np.concatenate(rows)]),
      found, wanted,
    )


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 4])
def test_workers_make_the_same_batches(mixed, recipe, workers):
  np.testing.assert_equal(
    batches(mixed, recipe, workers=workers), batches(mixed, recipe)
  )


def test_a_mixture_goes_to_a_worker(mixed):
  copy = pickle.loads(pickle.dumps(mixed))
  assert len(copy) == 131 and copy[60]['id'] == 'texts/0'
  assert order_of(copy, 1) == order_of(mixed, 1)


def test_a_source_of_weight_0_is_not_drawn():
  one = open_source('synthetic:12', 'train', Fields())
  both = Mixture({'a': one, 'b': one}, {'a': 0, 'b': 2})
  assert len(both) == 12 and both[0]['id'] == 'b/0'
  with pytest.raises(UserError, match='none has a weight above 0'):
    Mixture({'a': one}, {'a': 0})


def test_more_records_than_can_be_counted_are_refused(monkeypatch):
  one = open_source('synthetic:12', 'train', Fields())
  monkeypatch.setattr(mixture, '_MOST', 20)
  with pytest.raises(UserError, match='24 records are more than an int32'):
    Mixture({'a': one, 'b': one}, {'a': 1, 'b': 1})
