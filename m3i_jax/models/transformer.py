"""The transformer that encoder, decoders and text tower are made of.

Parameters and dtypes as in `layers`. Names follow timm: norm1, attn/qkv,
attn/proj, norm2, mlp/fc1, mlp/fc2.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import layers, placement

Array = jax.Array
REMAT = {
  'none': None,
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Attention(nn.Module):
  """Multi-head self-attention [B, N, D] -> [B, N, D]; softmax in float32.

  `mask`: bool [B, N], False for tokens that nobody may look at. `causal`: no
  token looks at a later one.
  """

  heads: int
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()
  causal: bool = False

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    b, n, width = x.shape
    dense = functools.partial(
      layers.Dense, dtype=self.dtype, kernel_init=self.kernel_init
    )
    q, k, v = (
      y.reshape(b, n, self.heads, width // self.heads)
      for y in dense(3 * width, parts=3, name='qkv')(x)
    )
    if mask is not None:
      mask = mask[:, None, None, :]
    y = jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=self.causal)
    return dense(width, name='proj')(y.reshape(b, n, width))


class CrossAttention(nn.Module):
  """Queries [B, N, D] look at a memory [B, K, E] -> [B, N, D]."""

  heads: int
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: Array, memory: Array) -> Array:
    b, n, width = x.shape
    dense = functools.partial(
      layers.Dense, dtype=self.dtype, kernel_init=self.kernel_init
    )
    split = lambda y: y.reshape(b, -1, self.heads, width // self.heads)
    k, v = dense(2 * width, parts=2, name='kv')(memory)
    q = dense(width, name='q')(x)
    y = jax.nn.dot_product_attention(split(q), split(k), split(v))
    return dense(width, name='proj')(y.reshape(b, n, width))


class Mlp(nn.Module):
  """Two layers with an activation between, a key of `layers.ACTIVATIONS`."""

  hidden: int
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()
  activation: str = 'gelu'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dense = functools.partial(
      layers.Dense, dtype=self.dtype, kernel_init=self.kernel_init
    )
    y = dense(self.hidden, name='fc1')(x)
    y = layers.ACTIVATIONS[self.activation](y)
    return dense(x.shape[-1], name='fc2')(y)


class Block(nn.Module):
  """One transformer layer, norms before (ViT) or after (BERT) the branches.

  Written as a scan body: returns (tokens, tokens if `collect`). `drop` is this
  layer's stochastic depth, drawn per sample from the 'drop_path' stream.
  `memory`: what a cross-attending layer looks at between its two branches.
  """

  heads: int
  hidden: int
  post_norm: bool = False
  eps: float = 1e-6
  drop_path: bool = False
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()
  norm: str = 'layer'
  causal: bool = False
  cross: bool = False
  activation: str = 'gelu'
  layer_scale: float = 0.0
  collect: bool = False

  @nn.compact
  def __call__(
    self, x: Array, drop: Array, mask: Array | None, memory: Array | None
  ) -> tuple[Array, Array | None]:
    norm = functools.partial(layers.NORMS[self.norm], self.eps)
    attn = Attention(
      self.heads, self.dtype, self.kernel_init, self.causal, name='attn'
    )
    mlp = Mlp(
      self.hidden, self.dtype, self.kernel_init, self.activation, name='mlp'
    )
    norm1, norm2 = norm(name='norm1'), norm(name='norm2')
    x = placement.batch_sharded(x)
    if self.post_norm:
      x = norm1(x + self._branch('1', attn(x, mask), drop))
      x = norm2(x + self._branch('2', mlp(x), drop))
    else:
      x = x + self._branch('1', attn(norm1(x), mask), drop)
      if self.cross:
        look = CrossAttention(
          self.heads, self.dtype, self.kernel_init, name='cross'
        )
        y = look(norm(name='norm_cross')(x), memory)
        x = x + self._branch('_cross', y, drop)
      x = x + self._branch('2', mlp(norm2(x)), drop)
    x = x.astype(layers.stream(self.dtype))
    return x, x if self.collect else None

  def _branch(self, name: str, branch: Array, rate: Array) -> Array:
    if self.layer_scale:
      branch = layers.LayerScale(self.layer_scale, name=f'ls{name}')(branch)
    if self.drop_path:
      branch = dropped(branch, rate, self.make_rng('drop_path'))
    return branch


def dropped(branch: Array, rate: Array, key: Array) -> Array:
  """Stochastic depth: whole samples of a branch [B, ...] are 0, or grow."""
  shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
  keep = jax.random.bernoulli(key, 1 - rate, shape)
  return branch * (keep / (1 - rate)).astype(branch.dtype)


def drop_rates(rate: float, depth: int, uniform: bool) -> np.ndarray:
  """Each layer's: all alike, or growing from 0 to `rate`. float32 [depth]."""
  return np.linspace(rate * uniform, rate, depth, dtype=np.float32)


def scanned(
  block: type[nn.Module],
  length: int,
  unroll: int = 1,
  remat: str = 'none',
  constants: int = 0,
) -> Callable:
  """The module that runs `length` blocks with stacked parameters.

  Args:
    block: a scan body (x, one of [length, ...], constants) -> (x, output).
    unroll, remat: see `Blocks`.
  """
  if remat != 'none':
    # prevent_cse is not needed inside a scan and costs speed.
    block = nn.remat(block, policy=REMAT[remat], prevent_cse=False)
  return nn.scan(
    block,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'drop_path': True},
    in_axes=(0, *[nn.broadcast] * constants),
    length=length,
    unroll=max(1, min(unroll, length)),
  )


class Blocks(nn.Module):
  """`depth` layers with stacked parameters [depth, ...], scanned.

  Attributes:
    drop_path: stochastic depth of the last layer; grows from 0 over the layers
      if `uniform` is False.
    unroll: layers per iteration of the scan; `depth` compiles straight-line
      code (faster on CPU). The parameters are the same.
    remat: a key of REMAT, what to keep for the backward pass.
    norm, activation: of the layers, keys of `layers.NORMS` and `ACTIVATIONS`.
    causal, cross: of the layers, see `Block`.
    layer_scale: what a learned scale of each branch's channels starts from
      (CaiT; ls1/gamma, ls2/gamma); 0 for none.
  """

  depth: int
  heads: int
  hidden: int
  post_norm: bool = False
  eps: float = 1e-6
  drop_path: float = 0.0
  uniform: bool = False
  unroll: int = 1
  remat: str = 'none'
  dtype: Any = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()
  norm: str = 'layer'
  causal: bool = False
  cross: bool = False
  activation: str = 'gelu'
  layer_scale: float = 0.0

  @nn.compact
  def __call__(
    self,
    x: Array,
    mask: Array | None = None,
    memory: Array | None = None,
    *,
    train: bool = False,
    last: int = 1,
  ) -> Array:
    """The output of the last layer, or the mean of those of the `last`."""
    stack = scanned(Block, self.depth, self.unroll, self.remat, constants=2)(
      self.heads,
      self.hidden,
      self.post_norm,
      self.eps,
      train and self.drop_path > 0,
      self.dtype,
      self.kernel_init,
      self.norm,
      self.causal,
      self.cross,
      self.activation,
      self.layer_scale,
      last > 1,
      name='layers',
    )
    rates = drop_rates(self.drop_path, self.depth, self.uniform)
    x = x.astype(layers.stream(self.dtype))
    x, outputs = stack(x, jnp.asarray(rates), mask, memory)
    if last == 1:
      return x
    return outputs[-last:].astype(jnp.float32).mean(0).astype(x.dtype)
