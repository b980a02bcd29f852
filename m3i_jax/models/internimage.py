"""InternImage (Wang et al., CVPR 2023): a ConvNet of deformable convolutions.

Arguments and parameters are those of the released PyTorch code (MIT), the
blocks of each level stacked along a first axis. The tokens of H and G are the
fused stride-16 map of their released heads: M3I's feature of an input, one
vector for each patch of 16 x 16 pixels.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import convolution, layers, placement, transformer
from m3i_jax.models.dcnv3 import dcnv3
from m3i_jax.models.pooling import AttentionPool

Array = jax.Array
INIT = nn.initializers.truncated_normal(0.02)
FUSED, POOLED, POOL_HEADS = 1024, 768, 16  # of the head of H and G


def _plain(channels, depths, first, **more):
  groups = tuple(first * 2**n for n in range(4))
  return dict(channels=channels, depths=depths, groups=groups, **more)


def _large(channels, depths, first, ids, **more):
  more |= dict(dw_kernel_size=5, level2_post_norm=True, use_clip_projector=True)
  more |= dict(level2_post_norm_block_ids=ids, center_feature_scale=True)
  return _plain(channels, depths, first, **more)


_SCALED = dict(post_norm=True, layer_scale=1e-5)
VARIANTS = {
  'T': _plain(64, (4, 4, 18, 4), 4),
  'S': _plain(80, (4, 4, 21, 4), 5, **_SCALED),
  'B': _plain(112, (4, 4, 21, 4), 7, **_SCALED),
  'L': _plain(160, (5, 5, 22, 5), 10, **_SCALED, offset_scale=2.0),
  'XL': _plain(192, (5, 5, 24, 5), 12, **_SCALED, offset_scale=2.0),
  'H': _large(
    320, (6, 6, 32, 6), 10, (5, 11, 17, 23, 29), res_post_norm=True
  ),
  'G': _large(
    512, (2, 2, 48, 4), 16, tuple(range(5, 48, 6)), post_norm=True
  ),
}  # fmt: skip


class DCN(nn.Module):
  """The operator with its maps: [B, H, W, C] -> [B, H, W, C].

  Where to read and how much comes from a depthwise convolution of the input;
  at the start, the mean of 3 x 3 cells.
  """

  groups: int
  offset_scale: float
  dw_kernel_size: int
  center_feature_scale: bool
  remove_center: bool
  impl: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    *place, width = x.shape
    points = 9 - self.remove_center
    dense = lambda width, name, **how: layers.Dense(
      width, self.dtype, name=name, **how
    )
    told = lambda width, name: dense(
      width, name, kernel_init=nn.initializers.zeros
    )(a)
    value = dense(width, 'input_proj')(x)
    a = convolution.DepthwiseConv(
      self.dw_kernel_size, dtype=self.dtype, name='dw_conv'
    )(x)
    a = layers.gelu(layers.LayerNorm(dtype=self.dtype, name='dw_norm')(a))
    # Places and softmax are float32, as everywhere.
    offset = told(self.groups * points * 2, 'offset').astype(jnp.float32)
    mask = told(self.groups * points, 'mask').astype(jnp.float32)
    grouped = value.reshape(*place, self.groups, -1)
    y = dcnv3(
      grouped,
      offset.reshape(*place, self.groups, points, 2),
      jax.nn.softmax(mask.reshape(*place, self.groups, points)),
      kernel_size=3,
      offset_scale=self.offset_scale,
      remove_center=self.remove_center,
      impl=self.impl,
    )
    if self.center_feature_scale:
      own = jax.nn.sigmoid(told(self.groups, 'center'))[..., None]
      y = y * (1 - own) + grouped * own
    return dense(width, 'output_proj')(y.reshape(x.shape))


class Block(nn.Module):
  """Deformable convolution and MLP, each a residual branch.

  Written as a scan body: returns (map, None). `one` holds what is this block's
  own: 'drop', its stochastic depth, and 'post', whether the stream is normed
  after it, with scale and bias; None for a level without such norms.
  """

  dcn: Callable[..., DCN]
  post_norm: bool
  res_post_norm: bool
  layer_scale: float | None
  drop_path: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, one: dict) -> tuple[Array, None]:
    x = placement.batch_sharded(x)
    mlp = transformer.Mlp(4 * x.shape[-1], self.dtype, INIT, name='mlp')
    for n, branch in enumerate((self.dcn(name='dcn'), mlp), start=1):
      x = x + self._drop(self._branch(branch, n, x), one['drop'])
    if one['post'] is not None:
      here, scale, bias = one['post']
      norm = lambda x: (layers.layer_norm(x, 1e-6) * scale + bias).astype(
        x.dtype
      )
      x = jax.lax.cond(here, norm, lambda x: x, x)
    return x.astype(layers.stream(self.dtype)), None

  def _branch(self, branch, n: int, x: Array) -> Array:
    norm = lambda name: layers.LayerNorm(dtype=self.dtype, name=f'{name}{n}')
    y = branch(x) if self.post_norm else branch(norm('norm')(x))
    if self.post_norm:
      y = norm('norm')(y)
    if self.layer_scale:
      init = nn.initializers.constant(self.layer_scale)
      return y * self.param(f'gamma{n}', init, y.shape[-1:]).astype(y.dtype)
    if self.res_post_norm and not self.post_norm:
      y = norm('res_post_norm')(y)
    return y

  def _drop(self, branch: Array, rate: Array) -> Array:
    if not self.drop_path:
      return branch
    return transformer.dropped(branch, rate, self.make_rng('drop_path'))


class PostNorms(nn.Module):
  """Norms of the stream after some blocks, as rows for all of a level's."""

  ids: tuple[int, ...]
  depth: int

  @nn.compact
  def __call__(self, width: int) -> tuple[Array, Array, Array]:
    """bool [depth], scale [depth, width], bias [depth, width]."""
    shape = (len(self.ids), width)
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    blocks = range(self.depth)
    here = np.array([n in self.ids for n in blocks])
    # The parameters are in the order of `ids`, whichever that is.
    row = np.array([self.ids.index(n) if n in self.ids else 0 for n in blocks])
    scale, bias = placement.gathered(scale), placement.gathered(bias)
    return jnp.asarray(here), scale[row], bias[row]


class Downsample(nn.Module):
  """3 x 3 convolution of stride 2, and a norm."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = convolution.Conv(
      self.width, 3, 2, 1, use_bias=False, dtype=self.dtype, name='conv'
    )(x)
    return layers.LayerNorm(dtype=self.dtype, name='norm')(x)


class Stem(nn.Module):
  """[B, S, S, 3] -> [B, S/4, S/4, width]."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for n, width in enumerate((self.width // 2, self.width), start=1):
      x = convolution.Conv(width, 3, 2, 1, dtype=self.dtype, name=f'conv{n}')(x)
      x = layers.LayerNorm(dtype=self.dtype, name=f'norm{n}')(x)
      x = layers.gelu(x) if n == 1 else x
    return x


class Level(nn.Module):
  """Blocks at one resolution: the map before it is made smaller, and after.

  Attributes:
    block: the fields of what is stacked.
    rates: stochastic depth of each block.
    post_ids: after which blocks the stream is normed.
    norm: there is a norm at the end.
    last: there is no smaller map.
  """

  block: Mapping[str, Any]
  rates: tuple[float, ...]
  post_ids: tuple[int, ...]
  norm: bool
  last: bool
  unroll: int
  remat: str

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    depth, width, dtype = len(self.rates), x.shape[-1], self.block['dtype']
    post = None
    if self.post_ids:
      post = PostNorms(self.post_ids, depth, name='post_norms')(width)
    stack = transformer.scanned(Block, depth, self.unroll, self.remat)
    own = dict(drop=jnp.asarray(self.rates, jnp.float32), post=post)
    x, _ = stack(**self.block, name='blocks')(x, own)
    if self.norm:
      x = layers.LayerNorm(dtype=dtype, name='norm')(x)
    if self.last:
      return x, x
    return x, Downsample(2 * width, dtype, name='downsample')(x)


class InternImage(convolution.Pyramid, nn.Module):
  """Four levels of strides 4 to 32.

  Attributes:
    channels: C of the first level, doubled by each further one.
    depths, groups: blocks, and groups of a deformable convolution, by level.
    num_classes: of the released classifier; 0 for none.
    layer_scale: what the scale of each branch's channels starts from; None: no
      scale.
    offset_scale: see `dcnv3`.
    post_norm: norms after the branches instead of before them.
    dw_kernel_size: side of the depthwise convolution.
    use_clip_projector: the head of H and G: `fused` tokens, attention pooling.
    level2_post_norm, level2_post_norm_block_ids: norms of the stream in the
      third level, after these blocks.
    res_post_norm: norms after the branches, too.
    center_feature_scale: a gate between what a cell reads and its own value.
    remove_center: see `dcnv3`.
    fused: width of the tokens, of the two last maps in one of stride 16; 0 for
      the last map, of stride 32, or 1024 with `use_clip_projector`.
    drop_path: stochastic depth of the last block; grows from 0 over all blocks
      if `uniform` is False.
    impl: see `dcnv3`.
    unroll, remat, dtype: see `transformer.Blocks`.
  """

  channels: int = 64
  depths: tuple[int, ...] = (3, 4, 18, 5)
  groups: tuple[int, ...] = (3, 6, 12, 24)
  num_classes: int = 1000
  layer_scale: float | None = None
  offset_scale: float = 1.0
  post_norm: bool = False
  dw_kernel_size: int | None = None
  use_clip_projector: bool = False
  level2_post_norm: bool = False
  level2_post_norm_block_ids: tuple[int, ...] | None = None
  res_post_norm: bool = False
  center_feature_scale: bool = False
  remove_center: bool = False
  fused: int = 0
  drop_path: float = 0.0
  uniform: bool = False
  impl: str = 'auto'
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32

  @property
  def width(self) -> int:
    """D of the tokens."""
    return self.fused_width or 8 * self.channels

  @property
  def fused_width(self) -> int:
    """As of `Pyramid`; of H and G the released one."""
    return self.fused or FUSED * self.use_clip_projector

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
      'tokens' [B, N, D] in `dtype`, 'pyramid', the maps of the four levels
      [B, S/4, S/4, C] to [B, S/32, S/32, 8C], and with classes 'pooled' and
      'logits' float32.
    """
    del last
    x = Stem(self.channels, self.dtype, name='patch_embed')(image)
    pyramid = []
    for n in range(4):
      y, x = self._level(n, train)(x)
      pyramid.append(y)
    if width := self.fused_width:
      x = convolution.Fuse(width, self.dtype, name='fuse')(*pyramid[-2:])
    own = {'tokens': convolution.tokens(x, cells), 'pyramid': tuple(pyramid)}
    return own | self._classified(x, y) if self.num_classes else own

  def _level(self, n: int, train: bool) -> Level:
    rates = self.rates()[n]
    dcn = functools.partial(
      DCN, self.groups[n], self.offset_scale, self.dw_kernel_size or 3,
      self.center_feature_scale, self.remove_center, self.impl, self.dtype,
    )  # fmt: skip
    block = dict(
      dcn=dcn,
      post_norm=self.post_norm,
      res_post_norm=self.res_post_norm,
      layer_scale=self.layer_scale,
      drop_path=bool(train and max(rates) > 0),
      dtype=self.dtype,
    )
    ids = self.level2_post_norm_block_ids if self.level2_post_norm else None
    return Level(
      block, rates, ids or () if n == 2 else (),
      not self.post_norm or self.center_feature_scale, n == 3, self.unroll,
      self.remat, name=f'levels_{n}',
    )  # fmt: skip

  def _classified(self, fused: Array, last: Array) -> dict[str, Array]:
    """The released classifiers: of attention-pooled tokens, or of the mean."""
    dense = lambda width, name, **how: layers.Dense(
      width, self.dtype, INIT, name=name, **how
    )
    if self.use_clip_projector:
      pool = AttentionPool(
        POOLED, POOL_HEADS, self.dtype, name='clip_projector'
      )
      pooled = pool({'tokens': convolution.tokens(fused, None)})
      pooled = layers.LayerNorm(name='fc_norm')(pooled)
    else:
      x = dense(12 * self.channels, 'conv_head', use_bias=False)(last)
      x = layers.gelu(convolution.FixedNorm(name='conv_norm')(x))
      pooled = x.astype(jnp.float32).mean((1, 2))
    logits = dense(self.num_classes, 'head')(pooled)
    return {'pooled': pooled, 'logits': logits.astype(jnp.float32)}
