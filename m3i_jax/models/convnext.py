"""ConvNeXt (Liu et al., 2022), to show that an encoder need not be a ViT.

Parameters correspond one to one to timm's `ConvNeXt`, the blocks of each stage
stacked along a first axis.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from m3i_jax.models import convolution, layers, placement, transformer

Array = jax.Array
INIT = nn.initializers.normal(0.02)
VARIANTS = {
  'T': dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
  'S': dict(depths=(3, 3, 27, 3), dims=(96, 192, 384, 768)),
  'B': dict(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)),
  'L': dict(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
  'XL': dict(depths=(3, 3, 27, 3), dims=(256, 512, 1024, 2048)),
}


class Block(nn.Module):
  """7 x 7 convolution of each channel, norm, MLP, scale: a residual branch.

  Written as a scan body: returns (map, None). `drop` is this block's stochastic
  depth, drawn per sample from the 'drop_path' stream.
  """

  layer_scale: float
  drop_path: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, drop: Array) -> tuple[Array, None]:
    x, width = placement.batch_sharded(x), x.shape[-1]
    y = convolution.DepthwiseConv(7, INIT, self.dtype, name='conv_dw')(x)
    y = layers.LayerNorm(name='norm')(y)
    y = transformer.Mlp(4 * width, self.dtype, INIT, name='mlp')(y)
    init = nn.initializers.constant(self.layer_scale)
    y = y * self.param('gamma', init, (width,)).astype(y.dtype)
    if self.drop_path:
      y = transformer.dropped(y, drop, self.make_rng('drop_path'))
    return x + y, None


class Stem(nn.Module):
  """Patches of 4 x 4 pixels: [B, S, S, 3] -> [B, S/4, S/4, width]."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = convolution.Conv(
      self.width, 4, 4, kernel_init=INIT, dtype=self.dtype, name='conv'
    )
    return layers.LayerNorm(dtype=self.dtype, name='norm')(conv(x))


class Downsample(nn.Module):
  """Cells of 2 x 2: [B, H, W, C] -> [B, H/2, W/2, width]."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = convolution.Conv(
      self.width, 2, 2, kernel_init=INIT, dtype=self.dtype, name='conv'
    )
    return conv(layers.LayerNorm(name='norm')(x))


class Stage(nn.Module):
  """Blocks at one resolution.

  Attributes:
    first: there is no `Downsample` before the blocks.
    rates: stochastic depth of each block.
    layer_scale, unroll, remat, dtype: see `ConvNeXt`.
  """

  width: int
  first: bool
  rates: tuple[float, ...]
  layer_scale: float
  unroll: int
  remat: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    if not self.first:
      x = Downsample(self.width, self.dtype, name='downsample')(x)
    stack = transformer.scanned(Block, len(self.rates), self.unroll, self.remat)
    drop = train and max(self.rates) > 0
    blocks = stack(self.layer_scale, drop, self.dtype, name='blocks')
    return blocks(x, jnp.asarray(self.rates, jnp.float32))[0]


class ConvNeXt(convolution.Pyramid, nn.Module):
  """Four stages of strides 4 to 32.

  Attributes:
    depths, dims: blocks and channels of each stage.
    fused: width of the tokens, of the two last maps in one of stride 16; 0 for
      the last map, of stride 32, as it is.
    num_classes: C of a linear classifier of the normed mean of the last map; 0
      for none.
    layer_scale: what the scale of each branch's channels starts from.
    drop_path: stochastic depth of the last block; grows from 0 over the blocks
      of all stages if `uniform` is False.
    unroll, remat, dtype: see `transformer.Blocks`.
  """

  depths: tuple[int, ...] = (3, 3, 9, 3)
  dims: tuple[int, ...] = (96, 192, 384, 768)
  fused: int = 0
  num_classes: int = 0
  layer_scale: float = 1e-6
  drop_path: float = 0.0
  uniform: bool = False
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  @property
  def width(self) -> int:
    """D of the tokens."""
    return self.fused or self.dims[-1]

  @nn.compact
  def __call__(
    self,
    image: Array,
    cells: Array | None = None,
    *,
    train: bool = False,
    last: int = 1,
  ) -> dict[str, Any]:
    """Encode whole images.

    Args:
      image: float32 [B, S, S, 3], normalised, S a multiple of 32.
      cells: int32 [B, N], which tokens come out, in this order; all if None.
      train: use stochastic depth (stream 'drop_path').
      last: 1, there are no blocks alike to average.
    Returns:
      'tokens' [B, N, D] in `dtype`, 'pyramid', the four maps [B, S/4, S/4, C]
      to [B, S/32, S/32, 8C], and with classes 'pooled' and 'logits' float32.
    """
    del last
    x = Stem(self.dims[0], self.dtype, name='stem')(image)
    maps = []
    for n, rates in enumerate(self.rates()):
      x = Stage(
        self.dims[n],
        n == 0,
        rates,
        self.layer_scale,
        self.unroll,
        self.remat,
        self.dtype,
        name=f'stages_{n}',
      )(x, train)
      maps.append(x)
    if self.fused:
      x = convolution.Fuse(self.fused, self.dtype, name='fuse')(*maps[-2:])
    own = {'tokens': convolution.tokens(x, cells), 'pyramid': tuple(maps)}
    return own | self._classified(maps[-1]) if self.num_classes else own

  def _classified(self, x: Array) -> dict[str, Array]:
    pooled = x.astype(jnp.float32).mean((1, 2))
    pooled = layers.LayerNorm(dtype=self.dtype, name='norm')(pooled)
    head = layers.Dense(self.num_classes, self.dtype, INIT, name='head')
    return {'pooled': pooled, 'logits': head(pooled).astype(jnp.float32)}
