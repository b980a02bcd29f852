"""SentencePiece pieces of captions: trained in memory, fixed in length."""

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence

import sentencepiece

from m3i_jax.data.vocabulary import PAD, Vocabulary
from m3i_jax.data.wordpiece import SPECIAL, WordPiece
from m3i_jax.errors import UserError

UNKNOWN, CLS, EOS = 1, 2, 3
_LONGEST = 4192  # bytes of a text; SentencePiece leaves out longer ones


def open_tokenizer(model: bytes) -> Vocabulary:
  """The tokenizer in a file: a SentencePiece model, or BERT's vocab.txt.

  Raises:
    UserError: it is neither, or not as this package needs it.
  """
  # A model is a protocol buffer, none of which has a line of these.
  lines = model[: 2**20].splitlines()
  listed = any(name.encode() in lines for name in SPECIAL)
  return WordPiece(model) if listed else Tokenizer(model)


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> bytes:
  """A unigram model of lower-cased captions, as the bytes of its file.

  Characters never seen fall back to bytes, so nothing is unknown. A small
  corpus may give fewer than `vocab_size` pieces. The same captions give the
  same bytes. Long captions are seen in parts of whole words.

  Raises:
    UserError: no captions, none that SentencePiece can use, or a vocabulary too
      small for the 260 base pieces.
  """
  captions = [text for text in captions if text.strip()]
  if not captions:
    raise UserError('no captions to train a tokenizer on: check the text field')
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=itertools.chain.from_iterable(map(_parts, captions)),
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
    if not reason:  # it has no words for having nothing left
      raise UserError(
          'SentencePiece can use none of the captions, such as '
          f'{captions[0][:40]!r}: check the text field'
      ) from error
    raise UserError(
        f'cannot train a tokenizer of {vocab_size} pieces ({reason}): '
        'raise config.data.vocabulary'
    ) from error
  return model.getvalue()


def _parts(caption: str) -> list[str]:
  """A caption, in parts if SentencePiece would leave it out for its length."""
  if len(caption.encode()) <= _LONGEST:
    return [caption]
  # No character has more than four bytes.
  return textwrap.wrap(caption, _LONGEST // 4, break_on_hyphens=False)


class Tokenizer(Vocabulary):
  """SentencePiece.

  Raises:
    UserError: bytes that are no SentencePiece model, or one whose PAD, UNKNOWN,
      CLS and EOS are not 0 to 3.
  """

  kind = 'SentencePiece'
  unknown, cls, eos = UNKNOWN, CLS, EOS

  def __init__(self, model: bytes):
    self.model = model
    pieces = sentencepiece.SentencePieceProcessor()
    try:
      pieces.LoadFromSerializedProto(model)
    except RuntimeError as error:
      raise UserError(
        'the tokenizer is no SentencePiece model, nor the vocab.txt of a BERT: '
        'name another file'
      ) from error
    ids = pieces.pad_id(), pieces.unk_id(), pieces.bos_id(), pieces.eos_id()
    if ids != (PAD, UNKNOWN, CLS, EOS):
      raise UserError(
        f'the tokenizer has the ids {ids} of pad, unk, bos and eos: train it '
        'with --pad_id=0 --unk_id=1 --bos_id=2 --eos_id=3'
      )
    self._pieces = pieces

  @property
  def vocab_size(self) -> int:
    return self._pieces.vocab_size()

  def pieces(self, text: str) -> list[int]:
    return [CLS, *self._pieces.encode(text), EOS]

  def name(self, piece: int) -> str:
    return self._pieces.id_to_piece(piece)

  def spelled(self, piece: int) -> bool:
    return not (self._pieces.is_byte(piece) or self._pieces.is_unknown(piece))

  def joined(self, ids: Sequence[int]) -> str:
    return self._pieces.decode(list(ids))
