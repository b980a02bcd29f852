"""f_theta: the Vision Transformer (Dosovitskiy et al., 2021).

Parameters correspond one to one to timm's `VisionTransformer`, the blocks
stacked along a first axis.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax import positions, views
from m3i_jax.models import layers, transformer

# width, depth, heads, hidden width of the MLP, patch side
VARIANTS = {
  'Ti': (192, 12, 3, 768, 16),
  'S': (384, 12, 6, 1536, 16),
  'B': (768, 12, 12, 3072, 16),
  'L': (1024, 24, 16, 4096, 16),
  'H': (1280, 32, 16, 5120, 14),
  'g': (1408, 40, 16, 6144, 14),
}


class ViT(nn.Module):
  """Pre-norm ViT over the cells that it is given.

  Attributes:
    patch: p, side of a patch in pixels.
    class_token: prepend a learned token; it is part of the features (and of
      their gradient norm) but not of the returned tokens.
    positions: 'sincos', fixed as in MAE and SiameseIM, or 'learned' as in timm
      (a parameter pos_embed [1, L (+ 1), D]).
    final_norm: LayerNorm after the last block, as timm; M3I's features and
      targets are those before it.
    drop_path, uniform, unroll, remat, dtype: see `transformer.Blocks`.
  """

  width: int
  depth: int
  heads: int
  hidden: int
  patch: int = 16
  class_token: bool = True
  positions: str = 'sincos'
  final_norm: bool = False
  drop_path: float = 0.0
  uniform: bool = False
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    cells: jax.Array | None = None,
    *,
    train: bool = False,
    last: int = 1,
  ) -> dict[str, jax.Array]:
    """Encode the given cells of each image.

    Args:
      image: float32 [B, S, S, 3], normalised.
      cells: int32 [B, N], which cells enter, in this order; all L if None.
      train: use stochastic depth (stream 'drop_path').
      last: average the outputs of so many last blocks (data2vec).
    Returns:
      'tokens' [B, N, D] in `dtype`, and 'cls' [B, D] if there is one.
    """
    x = views.patches(image, self.patch)
    count = x.shape[1]
    if cells is not None:
      # Pixels are gathered before they are embedded: no gradient, no scatter.
      x = jnp.take_along_axis(x, cells[..., None], axis=1)
    dtype = layers.stream(self.dtype)
    x = PatchEmbed(self.width, self.patch, self.dtype, name='patch_embed')(x)
    position, cls = self._positions(count)
    if cells is None:
      x = x + position.astype(dtype)
    else:
      x = x + position.astype(dtype)[cells]
    if self.class_token:
      token = self.param(
        'cls_token', nn.initializers.normal(0.02), (1, 1, self.width)
      )
      token = (token + cls).astype(dtype)
      token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    x = transformer.Blocks(
      self.depth,
      self.heads,
      self.hidden,
      drop_path=self.drop_path,
      uniform=self.uniform,
      unroll=self.unroll,
      remat=self.remat,
      dtype=self.dtype,
      name='blocks',
    )(x, train=train, last=last)
    if self.final_norm:
      x = layers.LayerNorm(dtype=self.dtype, name='norm')(x)
    if self.class_token:
      return {'tokens': x[:, 1:], 'cls': x[:, 0]}
    return {'tokens': x}

  def _positions(self, count: int) -> tuple[jax.Array, jax.Array]:
    """The table [L, D] and the class token's row [D]."""
    if self.positions == 'learned':
      shape = (1, count + self.class_token, self.width)
      table = self.param('pos_embed', nn.initializers.normal(0.02), shape)[0]
      return table[int(self.class_token) :], table[0]
    table = positions.grid_sincos(round(count**0.5), self.width)
    return table, jnp.zeros(self.width)


class PatchEmbed(nn.Module):
  """Linear embedding of patches [B, N, p * p * 3] -> [B, N, D].

  The kernel is stored as timm's convolution, [p, p, 3, D] under 'proj', and
  initialised as the linear map that it is.
  """

  width: int
  patch: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return _Projection(self.width, self.patch, self.dtype, name='proj')(x)


class _Projection(nn.Module):
  width: int
  patch: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def init(key, shape):
      flat = (int(np.prod(shape[:-1])), shape[-1])
      return nn.initializers.xavier_uniform()(key, flat).reshape(shape)

    shape = (self.patch, self.patch, 3, self.width)
    kernel = self.param('kernel', init, shape).reshape(-1, self.width)
    bias = self.param('bias', nn.initializers.zeros, (self.width,))
    dtype = layers.stream(self.dtype)
    return layers.product(x.astype(dtype), kernel, self.dtype) + bias.astype(
      dtype
    )
