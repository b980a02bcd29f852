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
from m3i_jax.errors import UserError
from m3i_jax.models import layers, placement, pooling, transformer

SIZES = ('width', 'depth', 'heads', 'hidden', 'patch')
VARIANTS = {
  name: dict(zip(SIZES, sizes, strict=True))
  for name, sizes in {
    'Ti': (192, 12, 3, 768, 16),
    'S': (384, 12, 6, 1536, 16),
    'B': (768, 12, 12, 3072, 16),
    'L': (1024, 24, 16, 4096, 16),
    'H': (1280, 32, 16, 5120, 14),
    'g': (1408, 40, 16, 6144, 14),
  }.items()
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
    layer_scale, activation: of the blocks, see `transformer.Blocks`.
    eps: of all norms.
    pooling: one vector of them all: 'cls', the class token, 'mean' of the
      tokens, followed by a norm if there is no final one (timm's 'avg'), 'map',
      attention by a learned probe (SigLIP), or '' for none.
    num_classes: C of a linear classifier of the pooled vector; 0 for none.
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
  layer_scale: float = 0.0
  eps: float = 1e-6
  activation: str = 'gelu'
  pooling: str = ''
  num_classes: int = 0
  whole = False

  @property
  def stride(self) -> int:
    """What the side of an image must be a multiple of."""
    return self.patch

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
      'tokens' [B, N, D] in `dtype`, and, where there is such a thing, 'cls'
      [B, D], 'pooled' [B, D] and 'logits' float32 [B, C].
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
      eps=self.eps,
      activation=self.activation,
      layer_scale=self.layer_scale,
      name='blocks',
    )(x, train=train, last=last)
    if self.final_norm:
      x = layers.LayerNorm(self.eps, self.dtype, name='norm')(x)
    if self.class_token:
      return self._pooled({'tokens': x[:, 1:], 'cls': x[:, 0]})
    return self._pooled({'tokens': x})

  def _pooled(self, own: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`own` with the pooled vector and its classes."""
    if not self.pooling:
      if self.num_classes:
        raise UserError(
          'config.model.num_classes has no vector to classify: give '
          "config.model.pooling, 'cls', 'mean' or 'map'"
        )
      return own
    x = self._pool(own)
    if not self.num_classes:
      return own | {'pooled': x}
    head = layers.Dense(
      self.num_classes, self.dtype, nn.initializers.normal(0.02), name='head'
    )
    return own | {'pooled': x, 'logits': head(x).astype(jnp.float32)}

  def _pool(self, own: dict[str, jax.Array]) -> jax.Array:
    if self.pooling == 'map':
      return pooling.ProbePool(
        self.heads,
        self.hidden,
        self.eps,
        self.activation,
        self.dtype,
        name='attn_pool',
      )(own['tokens'])
    if self.pooling == 'mean':
      x = own['tokens'].astype(jnp.float32).mean(1)
      if self.final_norm:
        return x.astype(layers.stream(self.dtype))
      return layers.LayerNorm(self.eps, self.dtype, name='fc_norm')(x)
    if self.pooling == 'cls' and 'cls' in own:
      return own['cls']
    raise UserError(
      f"config.model.pooling={self.pooling!r}: choose from 'mean', 'map' and, "
      "with config.model.class_token, 'cls'"
    )

  def _positions(self, count: int) -> tuple[jax.Array, jax.Array]:
    """The table [L, D] and the class token's row [D]."""
    if self.positions == 'learned':
      shape = (1, count + self.class_token, self.width)
      table = self.param('pos_embed', nn.initializers.normal(0.02), shape)
      table = placement.gathered(table)[0]
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
