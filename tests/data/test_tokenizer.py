"""SentencePiece in memory: the same model every time, nothing cut silently."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from m3i_jax.data.tokenizer import (
  CLS,
  EOS,
  PAD,
  UNKNOWN,
  Tokenizer,
  train_tokenizer,
)
from m3i_jax.errors import UserError

CAPTIONS = [
    f'{size} {colour} {thing}'
    for size in ('small', 'large', 'huge')
    for colour in ('red', 'green', 'blue')
    for thing in ('house', 'cat', 'dog', 'boat')
]


@pytest.fixture(scope='module')
def model():
  return train_tokenizer(CAPTIONS, 350)


def test_training_is_deterministic(model):
  assert model == train_tokenizer(iter(CAPTIONS), 350)
  assert 260 < Tokenizer(model).vocab_size <= 350
  assert Tokenizer(train_tokenizer(CAPTIONS, 9999)).vocab_size < 9999


def test_layout_of_the_tokens(model):
  tokens = Tokenizer(model).encode('small red house', 16)
  assert tokens.dtype == np.int32 and tokens.shape == (16,)
  assert (PAD, UNKNOWN, CLS, EOS) == (0, 1, 2, 3)
  end = tokens.tolist().index(EOS)
  assert tokens[0] == CLS and (tokens[1:end] > EOS).all()
  assert (tokens[end + 1 :] == PAD).all()


def test_text_comes_back_lower_cased_and_whole(model):
  tokenizer = Tokenizer(model)
  for text in ('small red house', 'a ☃ in 日本', 'ﬁne Ｗide'):
    want = text.lower().replace('ﬁ', 'fi').replace('ｗ', 'w')
    tokens = tokenizer.encode(text, 64)
    assert tokenizer.decode(tokens) == want
    assert UNKNOWN not in tokens
  np.testing.assert_array_equal(
      tokenizer.encode('LARGE Cat', 9), tokenizer.encode('large cat', 9)
  )


def test_truncation_is_counted(model):
  tokenizer = Tokenizer(model)
  whole = tokenizer.encode('small red house', 64)
  used = int((whole != PAD).sum())
  np.testing.assert_array_equal(
      tokenizer.encode('small red house', used), whole[:used]
  )
  assert tokenizer.truncated == 0
  short = tokenizer.encode('small red house', used - 1)
  assert tokenizer.truncated == 1
  assert short[-1] == EOS
  np.testing.assert_array_equal(short[:-1], whole[: used - 2])


def test_threads_share_a_tokenizer(model):
  tokenizer = Tokenizer(model)
  texts = CAPTIONS * 20
  want = [tokenizer.encode(text, 4) for text in texts]
  counted = tokenizer.truncated
  with ThreadPoolExecutor(4) as pool:
    got = list(pool.map(lambda text: tokenizer.encode(text, 4), texts))
  np.testing.assert_array_equal(got, want)
  assert tokenizer.truncated == 2 * counted > 0


def test_pickling_keeps_the_model(model):
  copy = pickle.loads(pickle.dumps(Tokenizer(model)))
  np.testing.assert_array_equal(
      copy.encode('huge dog', 8), Tokenizer(model).encode('huge dog', 8)
  )


@pytest.mark.parametrize(
    ('captions', 'size', 'message'),
    [
        ([], 300, 'no captions'),
        (['', '  '], 300, 'no captions'),
        (CAPTIONS, 100, 'raise vocab_size'),
    ],
)
def test_mistakes(captions, size, message):
  with pytest.raises(UserError, match=message) as caught:
    train_tokenizer(captions, size)
  assert '\n' not in str(caught.value)
