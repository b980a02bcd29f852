"""SentencePiece pieces of captions: trained in memory, fixed in length."""

import io
from collections.abc import Iterable

import numpy as np
import sentencepiece

from m3i_jax.errors import UserError

PAD, UNKNOWN, CLS, EOS = range(4)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> bytes:
  """A unigram model of lower-cased captions, as the bytes of its file.

  Characters never seen fall back to bytes, so nothing is unknown. A small
  corpus may give fewer than `vocab_size` pieces. The same captions give the
  same bytes.

  Raises:
    UserError: no captions, or a vocabulary too small for the 260 base pieces.
  """
  captions = [text for text in captions if text.strip()]
  if not captions:
    raise UserError('no captions to train a tokenizer on: check the text field')
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        model_type='unigram',
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name='nmt_nfkc_cf',
        character_coverage=1.,
        pad_id=PAD,
        unk_id=UNKNOWN,
        bos_id=CLS,
        eos_id=EOS,
        num_threads=1,
        minloglevel=2,
    )
  except (RuntimeError, OSError) as error:
    reason = str(error).rpartition('] ')[2].partition('. Increase')[0]
    raise UserError(
        f'cannot train a tokenizer of {vocab_size} pieces ({reason}): '
        'raise config.data.vocabulary'
    ) from error
  return model.getvalue()


class Tokenizer:
  """Turns text into a fixed number of token ids.

  Raises:
    UserError: bytes that are no SentencePiece model, or one whose PAD, UNKNOWN,
      CLS and EOS are not 0 to 3.
  """

  def __init__(self, model: bytes):
    self.model = model
    pieces = sentencepiece.SentencePieceProcessor()
    try:
      pieces.LoadFromSerializedProto(model)
    except RuntimeError as error:
      raise UserError(
        'the tokenizer is no SentencePiece model: name another file'
      ) from error
    ids = pieces.pad_id(), pieces.unk_id(), pieces.bos_id(), pieces.eos_id()
    if ids != (PAD, UNKNOWN, CLS, EOS):
      raise UserError(
        f'the tokenizer has the ids {ids} of pad, unk, bos and eos: train it '
        'with --pad_id=0 --unk_id=1 --bos_id=2 --eos_id=3'
      )
    self._pieces = pieces

  def __reduce__(self):
    return Tokenizer, (self.model,)

  @property
  def vocab_size(self) -> int:
    return self._pieces.vocab_size()

  def pieces(self, text: str) -> list[int]:
    """CLS, the ids of the whole text, EOS."""
    return [CLS, *self._pieces.encode(text), EOS]

  def encode(self, text: str, length: int) -> np.ndarray:
    """int32 [T]: `pieces`, then PAD; a longer text loses its end, see `fit`."""
    return fit(self.pieces(text), length)

  def decode(self, tokens: np.ndarray) -> str:
    """The text of the ids before the first EOS, without CLS and PAD."""
    ids = [int(token) for token in tokens]
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    return self._pieces.decode([i for i in ids if i not in (PAD, CLS)])


def fit(pieces: list[int], length: int) -> np.ndarray:
  """int32 [length]: filled up with PAD, or cut, with EOS at the end."""
  tokens = np.full(length, PAD, np.int32)
  tokens[: len(pieces)] = pieces[:length]
  if len(pieces) > length:
    tokens[-1] = EOS
  return tokens
