"""f_psi(z_x, t_x, t_y): from the input's tokens to a prediction of the target.

"We adopt Transformer layers to predict the dense representations for image
targets, and an attention pooling layer followed by a linear projection to
predict the category embedding or text embedding" (section 3.4).
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from m3i_jax import positions
from m3i_jax.models import layers
from m3i_jax.views import View

Array = jax.Array


@flax.struct.dataclass
class Frame:
  """t_x and t_y: which cells the tokens are, and which are asked for where.

  Attributes:
    grid: g.
    cells: int32 [B, K], the cells of the tokens in the input view; None: all.
    queries: int32 [B, Q], the cells of the target view asked for; None: all.
    input_box, input_flip, target_box, target_flip: of the views ([B, 4], [B]);
      see `positions.relative_sincos`.
  """

  grid: int = flax.struct.field(pytree_node=False)
  cells: Array | None
  queries: Array | None
  input_box: Array
  input_flip: Array
  target_box: Array
  target_flip: Array

  @classmethod
  def between(cls, grid, x: View, y: View, cells, queries) -> 'Frame':
    """The frame of target view y seen from input view x."""
    return cls(grid, cells, queries, x.box, x.flip, y.box, y.flip)


class DenseDecoder(nn.Module):
  """Mask queries among the input's tokens, through transformer layers.

  Each query is the mask token plus a learned map of its position in the input
  view's frame. No projector and no final norm.

  Attributes:
    out: width of the prediction.
    width, depth, heads, hidden: of the layers; Table 7 has 768, 4, 16, 3072.
  """

  out: int
  width: int = 768
  depth: int = 4
  heads: int = 16
  hidden: int = 3072
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, frame: Frame) -> Array:
    """tokens [B, K, D] -> float32 [B, Q, out]."""
    dense = lambda width, name: layers.Dense(width, self.dtype, name=name)
    dtype = layers.stream(self.dtype)
    x = dense(self.width, 'embed')(tokens)
    place = positions.grid_sincos(frame.grid, self.width).astype(dtype)
    x = x + (place if frame.cells is None else place[frame.cells])
    queries = self._queries(frame)
    x = jnp.concatenate([x, queries.astype(dtype)], axis=1)
    x = layers.Blocks(
      self.depth,
      self.heads,
      self.hidden,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      name='blocks',
    )(x)
    x = dense(self.out, 'head')(x[:, -queries.shape[1] :])
    return x.astype(jnp.float32)

  def _queries(self, frame: Frame) -> Array:
    """[B, Q, width]: the mask token and Linear(position code)."""
    init = nn.initializers.xavier_uniform()
    kernel = self.param('position_kernel', init, (2 * self.width, self.width))
    bias = self.param('position_bias', nn.initializers.zeros, (self.width,))
    token = self.param(
      'mask_token', nn.initializers.normal(0.02), (1, 1, self.width)
    )
    rows, columns, scale = positions.relative_sincos_parts(
      frame.input_box,
      frame.input_flip,
      frame.target_box,
      frame.target_flip,
      grid=frame.grid,
      width=self.width,
    )
    # The map of the code is the sum of the maps of its parts: g, not g * g.
    half = self.width // 2
    code = (rows @ kernel[:half])[:, :, None]
    code = code + (columns @ kernel[half : 2 * half])[:, None]
    code = code + (scale @ kernel[2 * half :] + bias)[:, None, None]
    code = code.reshape(code.shape[0], frame.grid**2, self.width)
    if frame.queries is not None:
      # One-hot product: its gradient is a product, too, not a scatter.
      pick = jax.nn.one_hot(frame.queries, frame.grid**2, dtype=code.dtype)
      code = jnp.einsum(
        'bql,bld->bqd', pick, code, precision=jax.lax.Precision.HIGHEST
      )
    return code + token


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
    self, tokens: Array, frame: Frame | None = None, mask: Array | None = None
  ) -> Array:
    """tokens [B, K, D] -> float32 [B, out].

    `mask`: bool [B, K], the tokens to pool; the same as pooling those alone.
    """
    del frame  # The category and the text of a picture do not depend on t.
    tokens = layers.batch_sharded(tokens)
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
    pooled = layers.batch_sharded(pooled)
    out = layers.Dense(self.out, self.dtype, name='proj')
    return out(pooled.reshape(b, width)).astype(jnp.float32)


DECODERS = {'dense': DenseDecoder, 'pool': AttentionPool}
