"""SentencePiece in memory: the same model every time."""

import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece

from m3i_jax.data import tokenizer as tokenizer_module
from m3i_jax.data.tokenizer import (
  CLS,
  EOS,
  UNKNOWN,
  Tokenizer,
  train_tokenizer,
)
from m3i_jax.data.vocabulary import PAD, fit
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


def test_a_long_text_loses_its_end_and_keeps_eos(model):
  tokenizer = Tokenizer(model)
  pieces = tokenizer.pieces('small red house')
  whole = tokenizer.encode('small red house', len(pieces))
  np.testing.assert_array_equal(whole, pieces)
  short = tokenizer.encode('small red house', len(pieces) - 1)
  np.testing.assert_array_equal(short, [*pieces[:-2], EOS])
  assert fit([], 3).tolist() == [PAD] * 3


def test_threads_share_a_tokenizer(model):
  tokenizer = Tokenizer(model)
  texts = CAPTIONS * 20
  want = [tokenizer.encode(text, 4) for text in texts]
  with ThreadPoolExecutor(4) as pool:
    got = list(pool.map(lambda text: tokenizer.encode(text, 4), texts))
  np.testing.assert_array_equal(got, want)


def test_captions_that_are_too_long_for_sentencepiece_are_seen_in_parts(model):
  order = np.random.default_rng(0).integers(len(CAPTIONS), size=3000)
  long = ' '.join(CAPTIONS[i] for i in order)
  tokenizer = Tokenizer(train_tokenizer([long], 350))
  for word in ('small', 'green', 'house'):
    assert len(tokenizer.pieces(word)) < len(word)
  # Without spaces, and of the longest characters, no byte is lost either.
  wide = Tokenizer(train_tokenizer(['\U00020000\U0001f600' * 9000], 290))
  assert not any(wide._pieces.is_byte(i) for i in wide.pieces('\U0001f600'))


def test_captions_up_to_the_limit_are_trained_on_as_they_are(model):
  text = 'red cat ' * 524  # 4,192 bytes
  assert tokenizer_module._parts(text) == [text]
  assert len(tokenizer_module._parts(text + '!')) == 5


@pytest.mark.parametrize('content', [b'', b'no model', bytes(50)])
def test_what_is_no_model(content):
  with pytest.raises(UserError, match='no SentencePiece model'):
    Tokenizer(content)


def test_a_model_with_other_ids():
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=model, vocab_size=40,
      hard_vocab_limit=False, minloglevel=2,
  )
  with pytest.raises(UserError, match=r'\(-1, 0, 1, 2\).*--pad_id=0'):
    Tokenizer(model.getvalue())


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
        (['\u2581', '\u2581'], 300, 'can use none of the captions'),
        (CAPTIONS, 100, 'raise config.data.vocabulary'),
    ],
)
def test_mistakes(captions, size, message):
  with pytest.raises(UserError, match=message) as caught:
    train_tokenizer(captions, size)
  assert '\n' not in str(caught.value)
