"""The text tower: BERT (Devlin et al., 2019), only ever a target encoder.

"A 12-layer Transformer (with the same network architecture as BERT-Base) is
utilized as text target encoder" (section 4), trained jointly from scratch.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.models import layers, transformer

# width, depth, heads, hidden width of the MLP
VARIANTS = {
  'mini': (128, 2, 4, 512),
  'small': (512, 4, 8, 2048),
  'base': (768, 12, 12, 3072),
  'large': (1024, 24, 16, 4096),
}


class TextTower(nn.Module):
  """Token ids [B, T] (0 = padding) -> one vector per text [B, D].

  Post-norm blocks, learned positions, LayerNorm eps 1e-12, weights N(0, .02).

  Attributes:
    positions: longest text that fits.
    pool: 'cls', the first token's output, or 'mean' over the real tokens.
    unroll, remat, dtype: see `transformer.Blocks`.
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

  @nn.compact
  def __call__(self, text: jax.Array) -> jax.Array:
    """float32 [B, D]; a text of padding alone gives a finite vector."""
    init = nn.initializers.normal(0.02)
    word = self.param('word', init, (self.vocabulary, self.width))
    position = self.param('position', init, (self.positions, self.width))
    kind = self.param('type', init, (2, self.width))
    x = word[text] + position[: text.shape[1]] + kind[0]
    x = layers.LayerNorm(1e-12, dtype=self.dtype, name='norm')(x)
    # The first token is always seen, so that no softmax is empty.
    real = (text > 0) | (jnp.arange(text.shape[1]) == 0)
    x = transformer.Blocks(
      self.depth,
      self.heads,
      self.hidden,
      post_norm=True,
      eps=1e-12,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      kernel_init=init,
      name='blocks',
    )(x, real)
    x = x.astype(jnp.float32)
    if self.pool == 'cls':
      return x[:, 0]
    weight = real[..., None].astype(jnp.float32)
    return (x * weight).sum(1) / weight.sum(1)
