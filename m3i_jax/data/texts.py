"""Captions and their tags as tokens, and whether they fit."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3i_jax.data.sources import Record, Source
from m3i_jax.data.tokenizer import Tokenizer, fit

_MEASURED = 2000  # records that tell whether texts fit


@dataclasses.dataclass(frozen=True)
class Text:
  """How a caption becomes `length` tokens, with tags after it now and then."""

  tokenizer: Tokenizer
  length: int
  tags_probability: float = 0.
  max_tags: int = 3

  def row(self, record: Record, rng: np.random.Generator) -> dict[str, Any]:
    """'text' int32 [T] of a caption of the record, and whether it was cut."""
    captions, tags = record['text'], record['tags']
    pieces = []
    if captions:
      caption = captions[rng.integers(len(captions))]
      if tags and rng.random() < self.tags_probability:
        count = rng.integers(1, min(self.max_tags, len(tags)) + 1)
        chosen = rng.permutation(len(tags))[:count]
        caption = _tagged(caption, [tags[i] for i in chosen])
      pieces = self.tokenizer.pieces(caption)
    return {
        'text': fit(pieces, self.length),
        'truncated': np.bool_(len(pieces) > self.length),
    }


def truncation(source: Source, text: Text) -> str:
  """One line on the first records' captions that are cut; '' if none is.

  A caption counts with the longest tags that may come with it.
  """
  size = lambda words: len(text.tokenizer.pieces(words))
  most = text.max_tags if text.tags_probability else 0
  lengths = []
  for index in range(min(len(source), _MEASURED)):
    record = source[index]
    tags = sorted(record['tags'], key=size, reverse=True)[:most]
    lengths += [size(_tagged(words, tags)) for words in record['text']]
  long = sum(length > text.length for length in lengths)
  if not long:
    return ''
  return (
      f'{long:,} of the first {len(lengths):,} captions'
      f'{" with their longest tags" if most else ""} are longer than '
      f'config.data.text_length={text.length} and lose their end; '
      f'{max(lengths)} would fit all of these'
  )


def _tagged(caption: str, tags: Sequence[str]) -> str:
  return f'{caption}: {", ".join(tags)}' if tags else caption
