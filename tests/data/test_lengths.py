"""Lengths of texts, counted by hand."""

import numpy as np
import pytest

from m3i_jax.data.lengths import BARS, LONG, Lengths, examples, measure
from m3i_jax.data.tokenizer import Tokenizer, train_tokenizer
from m3i_jax.data.wordpiece import WordPiece
from m3i_jax.errors import UserError

NAMES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'red', 'cat', '##s', 'blue']
WORDS = WordPiece('\n'.join(NAMES).encode())


def of(*pieces: int) -> Lengths:
  return Lengths(np.array(pieces), 1, np.ones(1, int), np.ones(1, bool), 0)


def test_what_is_counted():
  found = measure(WORDS, ['red cats', 'cat', 'a red dog', ''])
  assert found.pieces.tolist() == [5, 3, 5, 2]
  assert found.used.tolist() == [0, 2, 0, 0, 2, 2, 1, 0]
  assert found.ranked().tolist() == [1, 4, 5, 6]
  told = found.summary([2, 4, 5])
  assert told == dict(
    texts=4, min=2, mean=3.75, median=4.0, p95=5.0, max=5,
    cut={'2': 0.75, '4': 0.5, '5': 0.0}, pieces_per_word=7 / 6,
    unspelled_pieces=2 / 7, unspelled_texts=0.25, vocabulary=8, never_used=1,
  )  # fmt: skip


def test_bytes_are_pieces_that_spell_nothing():
  words = Tokenizer(train_tokenizer(['red cat', 'blue cat'], 300))
  found = measure(words, ['red cat', 'red ☃'])
  assert found.lacking == 1
  assert found.used[~found.spelled].sum() == 3  # of UTF-8
  assert not found.spelled[[0, 1, 2, 3]].any()
  assert (~found.spelled).sum() == 256 + 4


def test_bars_share_out_all_texts():
  rng = np.random.default_rng(0)
  for pieces in ([7], [3, 4, 9], rng.integers(2, 500, 999), [5] * 200 + [9999]):
    bars = of(*pieces).histogram()
    assert len(bars) <= BARS
    assert sum(share for _, share in bars) == pytest.approx(1)
    for name, share in bars:
      low, _, high = name.partition('-')
      if name.endswith('+'):
        low, high = name[:-1], 10**6
      inside = [int(low) <= x <= int(high or low) for x in pieces]
      assert share == pytest.approx(np.mean(inside))
  assert bars[-1][0].endswith('+') and bars[0] == ('5', 200 / 201)


def test_examples_go_from_short_to_long():
  texts = ['red cats', 'cat', 'red ' * 100, 'red cat']
  found = examples(WORDS, texts, measure(WORDS, texts), 3)
  assert found[0] == ['[CLS]', 'cat', '[SEP]']
  assert found[1] == ['[CLS]', 'red', 'cat', '[SEP]']
  assert found[2] == ['[CLS]', *['red'] * (LONG - 1), '…']
  assert len(examples(WORDS, ['cat'], measure(WORDS, ['cat']))) == 1


def test_no_texts():
  with pytest.raises(UserError, match='no captions'):
    measure(WORDS, [])
