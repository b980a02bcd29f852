"""The text tower: BERT (Devlin et al., 2019), only ever a target encoder.

CLIP's text tower (Radford et al., 2021) is the same with other fields.

"A 12-layer Transformer (with the same network architecture as BERT-Base) is
utilized as text target encoder" (section 4), trained jointly from scratch.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.models import layers, placement, transformer

# width, depth, heads, hidden width of the MLP
VARIANTS = {
  'mini': (128, 2, 4, 512),
  'small': (512, 4, 8, 2048),
  'base': (768, 12, 12, 3072),
  'large': (1024, 24, 16, 4096),
}

INIT = nn.initializers.normal(0.02)


class TextTower(nn.Module):
  """Token ids [B, T] (0 = padding) -> one vector per text [B, D].

  Learned positions, weights N(0, .02).

  Attributes:
    positions: longest text that fits.
    pool: a key of POOLS, or 'pooler', BERT's tanh(Linear(first token)).
    unroll, remat, dtype, activation: see `transformer.Blocks`.
    post_norm: BERT's blocks, type embedding and norm of the embeddings; False
      for CLIP's pre-norm blocks and final norm.
    causal: no token sees a later one. Padding, which comes last, is then not
      seen anyway, and id 0 may be a real token, as in CLIP's vocabulary.
    eps: of all norms.
    projection: width of a last linear map without bias; 0 for none.
  """

  vocabulary: int
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int = 3072
  positions: int = 512
  pool: str = 'cls'
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32
  post_norm: bool = True
  causal: bool = False
  activation: str = 'gelu'
  eps: float = 1e-12
  projection: int = 0

  @nn.compact
  def __call__(self, text: jax.Array) -> jax.Array:
    """float32 [B, D]; a text of padding alone gives a finite vector."""
    x = self._embedded(text)
    # The first token is always seen, so that no softmax is empty.
    real = (text > 0) | (jnp.arange(text.shape[1]) == 0)
    x = transformer.Blocks(
      self.depth,
      self.heads,
      self.hidden,
      post_norm=self.post_norm,
      eps=self.eps,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      kernel_init=INIT,
      causal=self.causal,
      activation=self.activation,
      name='blocks',
    )(x, None if self.causal else real)
    if not self.post_norm:
      x = layers.LayerNorm(self.eps, name='final_norm')(x)
    x = x.astype(jnp.float32)
    if self.pool == 'pooler':
      dense = layers.Dense(self.width, self.dtype, INIT, name='pooler')
      x = jnp.tanh(dense(x[:, 0]))
    else:
      x = POOLS[self.pool](x, text, real)
    if self.projection:
      x = layers.Dense(
        self.projection, self.dtype, INIT, use_bias=False, name='projection'
      )(x)
    return x.astype(jnp.float32)

  def _embedded(self, text: jax.Array) -> jax.Array:
    word = self.param('word', INIT, (self.vocabulary, self.width))
    position = self.param('position', INIT, (self.positions, self.width))
    position = placement.gathered(position)[: text.shape[1]]
    x = placement.gathered(word)[text] + position
    if not self.post_norm:
      return x
    x = x + self.param('type', INIT, (2, self.width))[0]
    return layers.LayerNorm(self.eps, self.dtype, name='norm')(x)


def _mean(x: jax.Array, real: jax.Array) -> jax.Array:
  weight = real[..., None].astype(jnp.float32)
  return (x * weight).sum(1) / weight.sum(1)


def _last(real: jax.Array) -> jax.Array:
  return real.shape[1] - 1 - real[:, ::-1].argmax(1)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]


# Outputs [B, T, D], ids, which tokens are real -> [B, D].
POOLS = {
  'cls': lambda x, text, real: x[:, 0],
  'mean': lambda x, text, real: _mean(x, real),
  'last': lambda x, text, real: _at(x, _last(real)),  # real token
  # CLIP's end of text has the highest id; padding may have it, too.
  'argmax': lambda x, text, real: _at(x, text.argmax(1)),
}
