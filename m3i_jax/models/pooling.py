"""One vector of all tokens, by attention."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.models import layers, placement, transformer

Array = jax.Array


class AttentionPool(nn.Module):
  """Attention pooling with the mean of the tokens as query, then a projection.

  InternImage-H's released head (`AttentionPoolingBlock`, MIT), which M3I
  trained: separate LayerNorms for query, key and value, biases everywhere, no
  residual.

  Attributes:
    out: width of the prediction; 768, BERT's, in Table 7.
  """

  out: int
  heads: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, own: dict, frame: Any = None, mask: Array | None = None
  ) -> Array:
    """own {'tokens' [B, K, D]} -> float32 [B, out].

    `mask`: bool [B, K], the tokens to pool; the same as pooling those alone.
    """
    del frame  # One vector for the picture does not depend on t.
    tokens = placement.batch_sharded(own['tokens'])
    b, n, width = tokens.shape
    weight = jnp.ones((b, n)) if mask is None else mask.astype(jnp.float32)
    mean = jnp.einsum('bn,bnd->bd', weight, tokens.astype(jnp.float32))
    mean = (mean / weight.sum(-1, keepdims=True))[:, None]

    def project(x, name):
      x = layers.LayerNorm(name=f'norm_{name}')(x)
      x = layers.Dense(width, self.dtype, name=name)(x)
      return x.reshape(b, -1, self.heads, width // self.heads)

    q, k, v = project(mean, 'q'), project(tokens, 'k'), project(tokens, 'v')
    if mask is not None:
      mask = mask[:, None, None, :]
    pooled = jax.nn.dot_product_attention(q, k, v, mask=mask)
    pooled = placement.batch_sharded(pooled)
    out = layers.Dense(self.out, self.dtype, name='proj')
    return out(pooled.reshape(b, width)).astype(jnp.float32)

  def project(self, own: dict) -> Array:
    """All of it."""
    return self(own)


class ProbePool(nn.Module):
  """A learned probe looks at all tokens, then an MLP: SigLIP's 'MAP' head.

  Parameters as timm's `AttentionPoolLatent`: probe, q, kv, proj, norm, mlp.
  """

  heads: int
  hidden: int
  eps: float = 1e-6
  activation: str = 'gelu_tanh'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array) -> Array:
    """[B, N, D] -> [B, D]."""
    b, _, width = tokens.shape
    init = nn.initializers.normal(width**-0.5)
    probe = self.param('probe', init, (1, 1, width))
    probe = probe.astype(layers.stream(self.dtype))
    look = transformer.CrossAttention(self.heads, self.dtype)
    nn.share_scope(self, look)
    x = look(jnp.broadcast_to(probe, (b, 1, width)), tokens)[:, 0]
    mlp = transformer.Mlp(
      self.hidden, self.dtype, activation=self.activation, name='mlp'
    )
    return x + mlp(layers.LayerNorm(self.eps, name='norm')(x))
