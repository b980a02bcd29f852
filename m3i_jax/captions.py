"""Captions of pictures: the decoder of MUG (Zhao et al., 2023), and search.

"The text decoder" of MUG has uni-modal layers, which see the text so far, and
multi-modal ones, which look at the picture's tokens as well. It says by the
chain rule how likely a text is: one categorical distribution per piece.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.models import layers, placement, transformer

Array = jax.Array
PAD, CLS, EOS = 0, 2, 3  # of the tokenizers trained here


class CaptionDecoder(nn.Module):
  """Causal layers, cross-attending layers, logits tied to the embedding.

  The memory is the encoder's output as it is: its last norm is the encoder's.
  Nothing masks the padding: it comes last, so a causal layer shows it to no
  real piece, and what the decoder says after the end is not asked for.

  Attributes:
    out: V.
    depth_uni, depth_multi: layers that see text alone, then text and picture.
    width, heads, hidden: of all layers.
    positions: T of the longest text.
    class_token: the picture's class token, if any, is part of the memory.
    unroll, remat, dtype: see `transformer.Blocks`.
  """

  out: int
  width: int = 768
  depth_uni: int = 2
  depth_multi: int = 4
  heads: int = 12
  hidden: int = 3072
  positions: int = 64
  class_token: bool = True
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, own: dict[str, Array], text: Array) -> Array:
    """Scores each piece of a text, given the picture and the pieces before.

    Args:
      own: of the picture, 'tokens' [B, K, D] and perhaps 'cls' [B, D].
      text: int32 [B, T]; CLS, pieces, EOS, padding.
    Returns:
      float32 [B, T - 1, V], logits of text[:, 1:].
    """
    init = nn.initializers.normal(0.02)
    word = self.param('word', init, (self.out, self.width))
    position = self.param('position', init, (self.positions, self.width))
    memory = own['tokens']
    if self.class_token and 'cls' in own:
      memory = jnp.concatenate([own['cls'][:, None], memory], axis=1)
    blocks = functools.partial(
      transformer.Blocks,
      heads=self.heads,
      hidden=self.hidden,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      causal=True,
    )
    position = placement.gathered(position)[: text.shape[1] - 1]
    x = placement.gathered(word)[text[:, :-1]] + position
    x = blocks(self.depth_uni, name='uni')(x)
    x = blocks(self.depth_multi, cross=True, name='multi')(x, memory=memory)
    x = layers.LayerNorm(dtype=self.dtype, name='norm')(x)
    # Operands may be rounded, logits never are: 'mixed' stays in float32.
    dtype = jnp.float32 if self.dtype == jnp.float32 else 'mixed'
    return layers.product(x.astype(jnp.float32), word, dtype, 1)


def generate(
  score: Callable[[Any, Array], Array],
  own: Any,
  length: int,
  *,
  beams: int = 1,
  key: Array | None = None,
  top_p: float = 1.0,
  temperature: float = 1.0,
  cls: int = CLS,
  eos: int = EOS,
) -> tuple[Array, Array]:
  """A text for each picture: greedy, by beam search, or sampled.

  Pure, of static shapes, fit for jit. Every piece costs `score` of whole texts,
  `length` - 1 times in all at most; it stops when all texts have ended.

  Args:
    score: (own, text int32 [N, T]) -> logits float32 [N, T - 1, V] of the
      pieces after the first, each from those before it.
    own: arrays [B, ...] that `score` wants: the encoded pictures.
    length: T, with CLS and EOS. A text that is longer has no EOS.
    beams: texts kept in the search for the highest mean log-likelihood per
      piece; 1 is greedy.
    key: samples, where one beam is all, instead of taking the likeliest.
    top_p: samples from the fewest pieces that have this probability together
      (nucleus sampling, Holtzman et al., 2020).
    temperature: of the sampled distribution.
    cls, eos: the tokenizer's pieces that begin and end a text.
  Returns:
    int32 [B, T], padding after EOS; and float32 [B], the mean log-likelihood
    of the pieces after CLS, EOS included, under `score` as it is.
  """
  if key is not None and beams > 1:
    raise ValueError('generate: give a key or several beams, not both')
  if min(beams, length - 1) < 1 or temperature <= 0 or not 0 < top_p <= 1:
    raise ValueError(
      'generate: needs beams >= 1, length > 1, temperature > 0, 0 < top_p <= 1'
    )
  batch = jax.tree.leaves(own)[0].shape[0]
  own = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), own)

  def going(state):
    at, text, _ = state
    return (at < length) & ~(text == eos).any(-1).all()

  def step(state):
    at, text, total = state
    logits = score(own, text.reshape(batch * beams, length))[:, at - 1]
    ended = (text == eos).any(-1)
    said = _allowed(logits.reshape(batch, beams, -1), ended, cls)
    if key is None:
      beam, piece, total = _likeliest(said, _pieces(text) + ~ended, total)
      text = jnp.take_along_axis(text, beam[..., None], axis=1)
    else:
      drawn = jax.random.fold_in(key, at)
      piece = _sampled(drawn, said / temperature, top_p)
      total += jnp.take_along_axis(said, piece[..., None], axis=-1)[..., 0]
    return at + 1, text.at[:, :, at].set(piece), total

  text = jnp.full((batch, beams, length), PAD, jnp.int32).at[:, :, 0].set(cls)
  # All beams begin alike: one of them is enough.
  total = jnp.where(jnp.arange(beams) > 0, -jnp.inf, jnp.zeros((batch, beams)))
  _, text, total = jax.lax.while_loop(going, step, (1, text, total))
  mean = total / _pieces(text)
  best = mean.argmax(-1)[:, None]
  text = jnp.take_along_axis(text, best[..., None], axis=1)[:, 0]
  return text, jnp.take_along_axis(mean, best, axis=1)[:, 0]


def _pieces(text: Array) -> Array:
  """How many were said after CLS."""
  return (text[..., 1:] != PAD).sum(-1)


def _allowed(logits: Array, ended: Array, cls: int) -> Array:
  """Log-probabilities [B, beams, V] of what may come next, others -inf."""
  piece = jnp.arange(logits.shape[-1])
  said = jnp.where(
    (piece == PAD) | (piece == cls), -jnp.inf, jax.nn.log_softmax(logits)
  )
  over = jnp.where(piece == PAD, 0.0, -jnp.inf)
  return jnp.where(ended[..., None], over, said)


def _likeliest(
  said: Array, count: Array, total: Array
) -> tuple[Array, Array, Array]:
  """The best continuations by their means: beam, piece, total [B, beams].

  count: [B, beams], pieces of each text with the one that comes now.
  """
  batch, beams, vocabulary = said.shape
  totals = total[..., None] + said
  mean = (totals / count[..., None]).reshape(batch, beams * vocabulary)
  best = jax.lax.top_k(mean, beams)[1]
  total = jnp.take_along_axis(totals.reshape(mean.shape), best, axis=1)
  return best // vocabulary, best % vocabulary, total


def _sampled(key: Array, logits: Array, top_p: float) -> Array:
  """Pieces [...] drawn from the nucleus of logits [..., V]."""
  if top_p < 1:
    odds = jax.nn.softmax(logits)
    falling = jnp.flip(jnp.sort(odds), axis=-1)
    before = jnp.cumsum(falling, axis=-1) - falling
    least = jnp.where(before < top_p, falling, 1.0).min(-1, keepdims=True)
    logits = jnp.where(odds >= least, logits, -jnp.inf)
  return jax.random.categorical(key, logits).astype(jnp.int32)
