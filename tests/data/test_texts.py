"""Captions with tags as tokens; no text is cut silently."""

import dataclasses

import numpy as np
import pytest

from m3i_jax.data.pictures import PictureError
from m3i_jax.data.texts import Text, captions, lengths, scattered
from m3i_jax.data.texts import truncation as told
from m3i_jax.data.tokenizer import EOS, Tokenizer, train_tokenizer


def truncation(source, text):
  return told(lengths(source, text), text)


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer(train_tokenizer(['large red cat', 'red cat', 'cat'], 300))


def test_captions_and_tags():
  tags = ('red', 'green', 'blue', 'grey')
  captions = ('one cat', 'two dogs')
  tokenizer = Tokenizer(train_tokenizer([*captions, *tags, ': ,'], 400))
  text, rng = Text(tokenizer, 40, .5, max_tags=2), np.random.default_rng(0)
  seen = {'plain': 0, 1: 0, 2: 0}
  first = set()
  for _ in range(400):
    row = text.row({'text': captions, 'tags': tags}, rng)
    caption, _, rest = tokenizer.decode(row['text']).partition(': ')
    first.add(caption)
    chosen = rest.split(', ') if rest else []
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(tags)
    seen[len(chosen) or 'plain'] += 1
  assert first == set(captions)
  assert abs(seen['plain'] - 200) < 50  # 5 sigma
  assert abs(seen[1] - seen[2]) < 70  # 5 sigma


def test_no_caption_is_all_padding(tokenizer):
  row = Text(tokenizer, 6).row({'text': (), 'tags': ('cat',)}, None)
  assert row['text'].tolist() == [0] * 6 and not row['truncated']


def test_a_row_tells_whether_its_text_was_cut(tokenizer):
  record = {'text': ('large red cat',), 'tags': ()}
  rng = np.random.default_rng(0)
  length = len(tokenizer.pieces('large red cat'))
  for room, cut in ((length, False), (length - 1, True)):
    row = Text(tokenizer, room).row(record, rng)
    assert row['truncated'] == cut and row['text'][-1] == EOS


def test_the_warning_counts_and_names_the_length_that_fits(tokenizer):
  source = [
      {'text': ('red cat', 'large red cat'), 'tags': ()},
      {'text': (), 'tags': ('red',)},
      {'text': ('cat',), 'tags': ('red', 'large', 'red cat')},
  ]
  size = lambda words: len(tokenizer.pieces(words))
  longest = size('large red cat')
  assert truncation(source, Text(tokenizer, longest)) == ''
  line = truncation(source, Text(tokenizer, longest - 1))
  assert line.startswith('1 of 3 captions that were looked at are longer than ')
  assert f'text_length={longest - 1} ' in line
  assert line.endswith(f'; {longest} would fit all of these')
  # The longest tags that may follow, and no more of them.
  tagged = max(size('cat: red cat, large'), size('cat: large, red cat'))
  text = Text(tokenizer, tagged, .5, max_tags=2)
  assert truncation(source, text) == ''
  text = dataclasses.replace(text, length=size('cat: red cat, large') - 1)
  assert 'looked at with their longest tags are' in truncation(source, text)


def test_the_warning_looks_at_a_few_records_of_all(tokenizer):
  class Endless:
    read = 0

    def __len__(self):
      return 10**9

    def __getitem__(self, i):
      self.read += 1
      return {'text': ('cat' if i < 10**9 / 2 else 'red cat',), 'tags': ()}

  text = Text(tokenizer, len(tokenizer.pieces('cat')))
  source = Endless()
  assert truncation(source, text).startswith('1,000 of 2,000 captions')
  assert source.read == 2000


def test_captions_are_read_once_and_sorted():
  source = [
      {'text': ('b', 'a'), 'tags': ('t',)},
      {'text': (), 'tags': ()},
      {'text': ('a',), 'tags': ()},
  ]
  assert captions(source) == ['a', 'b', 't']
  assert captions([]) == []


def test_records_that_cannot_be_read_are_passed_over(tokenizer):
  class Torn(list):
    def __getitem__(self, i):
      if i == 1:
        raise PictureError('unreadable record: hash mismatch')
      return {'text': (f'cat {i}',), 'tags': ()}

  source = Torn(range(3))
  assert captions(source) == ['cat 0', 'cat 2']
  assert truncation(source, Text(tokenizer, 2)).startswith('2 of 2 captions')


def test_a_large_source_is_sampled_evenly_and_always_alike():
  class Many:
    read = 0

    def __len__(self):
      return 10**6

    def __getitem__(self, i):
      self.read += 1
      return {'text': (f'{i:06}', f'{i:06}+'), 'tags': ()}

  source = Many()
  found = captions(source, most=1001)
  assert len(found) == 1001 and source.read == 501
  assert found == captions(Many(), most=1001)
  at = [int(text[:6]) for text in found if text[-1] != '+']
  # Points spread by the golden ratio: no gap is three times the mean one.
  assert max(np.diff([0, *at, 10**6])) < 3 * 10**6 / 500


@pytest.mark.parametrize('length', [0, 1, 2, 3, 10, 97, 1000])
def test_every_record_is_visited_once(length):
  assert sorted(scattered(length)) == list(range(length))
