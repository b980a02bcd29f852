"""BERT's pieces, as Hugging Face's `tokenizers` gives them."""

import json
import pathlib
import pickle
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from m3i_jax import weights
from m3i_jax.data import tokenizer, wordpiece
from m3i_jax.data.texts import Text
from m3i_jax.data.wordpiece import WordPiece
from m3i_jax.errors import UserError
from m3i_jax.models.text import TextTower

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
KEPT = json.loads((GOLDEN / 'wordpiece.json').read_text())
TEXTS = KEPT['texts']


def opened(which: str) -> WordPiece:
  return WordPiece(KEPT[which]['vocabulary'].encode())


@pytest.mark.parametrize('which', ['uncased', 'cased'])
def test_pieces_are_those_of_hugging_face(which):
  words = opened(which)
  assert words.cased == (which == 'cased') and which in words.kind
  for text, ids in zip(TEXTS, KEPT[which]['ids'], strict=True):
    assert words.pieces(text) == ids, text
  # Capitals and accents are what tells the two apart.
  same = [words.pieces(x) == words.pieces(x.lower()) for x in TEXTS[:4]]
  assert all(same) == (which == 'uncased')


@pytest.mark.parametrize('which', ['uncased', 'cased'])
def test_text_comes_back_as_hugging_face_says_it(which):
  words = opened(which)
  for ids, plain in zip(KEPT[which]['ids'], KEPT[which]['plain'], strict=True):
    # Theirs leaves out what is unknown, too.
    known = [i for i in ids if i != words.unknown]
    assert words.decode(np.array([*known, 0, 0, 7])) == plain


def test_its_special_pieces():
  words = opened('uncased')
  assert (words.pad, words.unknown, words.cls, words.eos) == (0, 1, 2, 3)
  assert [words.name(i) for i in range(4)] == list(wordpiece.SPECIAL)
  assert not words.spelled(1) and words.spelled(9)
  assert words.vocab_size == KEPT['uncased']['vocabulary'].count('\n')


def test_special_pieces_may_stand_anywhere_but_padding():
  """As in the released vocabularies: 100 to 102."""
  lines = ['[PAD]', 'cat', '[SEP]', 'red', '[UNK]', '##s', '[CLS]']
  words = WordPiece('\n'.join(lines).encode())
  assert words.pieces('red cats dog') == [6, 3, 1, 5, 4, 2]
  assert words.encode('red cats dog', 4).tolist() == [6, 3, 1, 2]
  assert words.encode('red', 5).tolist() == [6, 3, 2, 0, 0]
  assert words.decode(np.array([6, 3, 1, 5, 2, 0])) == 'red cats'


def test_a_special_name_in_a_text_is_text():
  words = opened('uncased')
  ids = words.pieces('a [SEP] [CLS] [PAD] house')
  assert ids.count(words.eos) == 1 and ids.count(words.cls) == 1
  assert words.pad not in ids
  assert wordpiece.words('a [SEP]', False) == ['a', '[', 'sep', ']']


def test_old_characters_have_the_categories_of_hugging_face():
  """Unassigned ones are kept: `tokenizers` knows no newer Unicode."""
  assert wordpiece.words('a\u0378b', True) == ['a\u0378b']
  for text, found in (('a\u200bb', ['ab']), ('a\u00adb', ['ab'])):
    assert unicodedata.category(text[1]) == 'Cf'
    assert wordpiece.words(text, True) == found


@pytest.mark.parametrize(
  ('content', 'told'),
  [
    (b'[UNK]\n[CLS]\n[SEP]\ncat\n', r'no \[PAD\]'),
    (b'[PAD]\ncat\n', r'no \[UNK\], \[CLS\], \[SEP\]'),
    (b'cat\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n', r'\[PAD\] is piece 1'),
    (b'[PAD]\n[UNK]\n[CLS]\n[SEP]\n\xff\n', 'no UTF-8'),
  ],
)
def test_what_is_no_vocabulary(content, told):
  with pytest.raises(UserError, match=told) as caught:
    tokenizer.open_tokenizer(content)
  assert '\n' not in str(caught.value)


def test_lines_may_end_as_on_windows_and_the_last_one_openly():
  plain = KEPT['uncased']['vocabulary']
  want = opened('uncased').pieces(TEXTS[0])
  odd = b'\xef\xbb\xbf' + plain.replace('\n', '\r\n').encode()
  for content in (odd, plain.rstrip('\n').encode()):
    words = WordPiece(content)
    assert words.pieces(TEXTS[0]) == want
    assert words.vocab_size == plain.count('\n')


def test_a_file_tells_what_it_is():
  trained = tokenizer.train_tokenizer(TEXTS, 450)
  assert tokenizer.open_tokenizer(trained).kind == 'SentencePiece'
  vocabulary = KEPT['cased']['vocabulary'].encode()
  assert tokenizer.open_tokenizer(vocabulary).kind == 'WordPiece, cased'
  with pytest.raises(UserError, match='nor the vocab.txt of a BERT'):
    tokenizer.open_tokenizer(b'cat\ndog\n')


def test_pickled_and_shared_by_threads():
  words = opened('uncased')
  copy = pickle.loads(pickle.dumps(words))
  want = [words.encode(text, 12) for text in TEXTS * 9]
  with ThreadPoolExecutor(4) as pool:
    got = list(pool.map(lambda text: copy.encode(text, 12), TEXTS * 9))
  np.testing.assert_array_equal(got, want)


def test_a_row_of_a_batch():
  words = opened('uncased')
  record = {'text': (TEXTS[0],), 'tags': ()}
  rng = np.random.default_rng(0)
  length = len(words.pieces(TEXTS[0]))
  for room, cut in ((length, False), (length - 1, True)):
    row = Text(words, room).row(record, rng)
    assert row['truncated'] == cut and row['text'][-1] == words.eos


def test_a_bert_is_imported_and_reads_its_words():
  """The golden BERT of 30 words: pieces of their own get their own vectors."""
  with np.load(GOLDEN / 'families' / 'hf_bert.npz') as file:
    arrays = dict(file)
  state = {
    k.removeprefix('weights/'): v
    for k, v in arrays.items()
    if k.startswith('weights/')
  }
  params = weights.import_state('hf_bert', state)
  size, width = params['word'].shape
  names = [*wordpiece.SPECIAL, 'red', 'cat', '##s', *map(str, range(size))]
  words = WordPiece('\n'.join(names[:size]).encode())
  assert words.vocab_size == size
  depth = params['blocks']['layers']['mlp']['fc1']['kernel'].shape[0]
  hidden = params['blocks']['layers']['mlp']['fc1']['kernel'].shape[2]
  tower = TextTower(
    size, width, depth, 2, hidden, len(params['position']), pool='pooler'
  )
  texts = ['Red cats', 'red CATS', 'cat', 'dog']
  tokens = np.stack([words.encode(text, 6) for text in texts])
  vectors = np.asarray(tower.apply({'params': params}, tokens))
  np.testing.assert_array_equal(vectors[0], vectors[1])
  assert np.abs(vectors[0] - vectors[2]).max() > 1e-3
  # Padding is not seen: a longer row says the same, within float32.
  longer = np.stack([words.encode(text, 8) for text in texts])
  np.testing.assert_allclose(
    tower.apply({'params': params}, longer), vectors, atol=1e-5
  )
