"""Captions and their tags as tokens, and whether they fit."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from m3i_jax.data.order import stride
from m3i_jax.data.pictures import PictureError
from m3i_jax.data.sources import Record, Source
from m3i_jax.data.vocabulary import Vocabulary, fit

_MEASURED = 2000  # records that tell whether texts fit


@dataclasses.dataclass(frozen=True)
class Text:
  """How a caption becomes `length` tokens, with tags after it now and then."""

  tokenizer: Vocabulary
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


def captions(source: Source, most: int = 1_000_000) -> list[str]:
  """The captions and tags to train a tokenizer on, sorted, each once.

  most: of them; a larger source is sampled evenly, always in the same way.
  """
  found: set[str] = set()
  for record in _sampled(source, most):
    found.update(record['text'], record['tags'])
    if len(found) >= most:
      break
  return sorted(found)[:most]


def as_they_come(source: Source, most: int) -> list[str]:
  """Captions with their repetitions, at most so many, sampled evenly."""
  found: list[str] = []
  for record in _sampled(source, most):
    found += record['text']
    if len(found) >= most:
      break
  return found[:most]


def _sampled(source: Source, most: int) -> Iterator[Record]:
  """Records that can be read, in a scattered order; a bar if it takes long.

  most: records or fewer are wanted.
  """
  total = min(len(source), most)
  for index in tqdm(
    scattered(len(source)), 'reading captions', total, leave=False,
    disable=None, delay=2, unit=' records',
  ):  # fmt: skip
    try:
      yield source[index]
    except PictureError:
      continue  # a run lists it when it comes to it


def scattered(length: int) -> Iterator[int]:
  """All of 0 .. length - 1, the first few of them spread evenly as well."""
  return (i * stride(length) % length for i in range(length))


def lengths(source: Source, text: Text) -> list[int]:
  """Pieces of captions, of some records spread evenly.

  A caption counts with the longest tags that may come with it.
  """
  size = lambda words: len(text.tokenizer.pieces(words))
  most = text.max_tags if text.tags_probability else 0
  found = []
  for record in itertools.islice(_sampled(source, _MEASURED), _MEASURED):
    tags = sorted(record['tags'], key=size, reverse=True)[:most]
    found += [size(_tagged(words, tags)) for words in record['text']]
  return found


def truncation(found: Sequence[int], text: Text) -> str:
  """One line on how many of `lengths` are cut; '' if none is."""
  long = sum(length > text.length for length in found)
  if not long:
    return ''
  return (
      f'{long:,} of {len(found):,} captions that were looked at'
      f'{" with their longest tags" if text.tags_probability else ""} are '
      f'longer than config.data.text_length={text.length} and lose their end; '
      f'{max(found)} would fit all of these'
  )


def _tagged(caption: str, tags: Sequence[str]) -> str:
  return f'{caption}: {", ".join(tags)}' if tags else caption
