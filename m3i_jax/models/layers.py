"""Linear layers, norms and activations that all networks share.

Parameters are float32, and so are norms, softmax and the sums of products.
`dtype` is that of activations and of the operands of products: float32,
bfloat16, or 'mixed', which rounds the operands to bfloat16 and keeps every
activation in float32 (on CPUs with AMX more than twice as fast as float32).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import placement

Array = jax.Array
Dtype = Any


def stream(dtype: Dtype) -> Dtype:
  """The dtype of activations."""
  return jnp.float32 if dtype == 'mixed' else dtype


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(
  x: Array, kernel: Array, dtype: Dtype, axis: int = 0, split: int | None = None
) -> Array:
  """x [..., D] @ kernel [D, ...], summed in float32, in the stream's dtype.

  With `axis` 1 the kernel is [E, D], such as an embedding that also scores. The
  operands of the backward products are rounded like those of the forward one;
  the kernel's gradient is never rounded. `split`: of the kernel, see
  `placement.gather`.
  """
  return _product_forward(x, kernel, dtype, axis, split)[0]


def _operand(x, dtype):
  return x.astype(jnp.bfloat16 if dtype == 'mixed' else dtype)


def _product_forward(x, kernel, dtype, axis, split):
  x = _operand(x, dtype)
  used = placement.gather(_operand(kernel, dtype), split)
  y = _contract(x, used, x.ndim - 1, axis)
  # The kernel as it is stored: no device keeps what it has gathered.
  return y.astype(stream(dtype)), (x, kernel)


def _product_backward(dtype, axis, split, operands, gradient):
  x, kernel = operands
  used = placement.gather(_operand(kernel, dtype), split)
  gradient = gradient.astype(x.dtype)
  rows = tuple(range(x.ndim - 1))
  columns = tuple(range(x.ndim - 1, gradient.ndim))
  others = tuple(n for n in range(kernel.ndim) if n != axis)
  to_x = _contract(gradient, used, columns, others)
  # In the kernel's own order: a transposed sum of bfloat16 products is more
  # than XLA can do on a CPU.
  sides = (gradient, x) if axis else (x, gradient)
  to_kernel = placement.scatter(_contract(*sides, rows, rows), split)
  return to_x.astype(stream(dtype)), to_kernel


def _contract(x, y, x_axes, y_axes) -> Array:
  axes = tuple(np.atleast_1d(x_axes)), tuple(np.atleast_1d(y_axes))
  return jax.lax.dot_general(
    x, y, (axes, ((), ())), preferred_element_type=jnp.float32
  )


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
  """x @ kernel + bias, [..., D] -> [..., width].

  Attributes:
    parts: above 1, the columns are so many equal parts side by side, such as
      queries, keys and values, and come out as a list of them.
  """

  width: int
  dtype: Dtype = jnp.float32
  kernel_init: Callable = nn.initializers.xavier_uniform()
  use_bias: bool = True
  parts: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array | list[Array]:
    shape = (x.shape[-1], self.width)
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.width,))
      bias = bias.astype(stream(self.dtype))
    # The product's input gradient has the stream's dtype: so must its input.
    x = x.astype(stream(self.dtype))
    if self.parts > 1 and placement.sizes().get('tensor', 1) > 1:
      # Each part is split on its own, so that heads stay whole.
      kernel = kernel.reshape(shape[0], self.parts, -1)
      split = placement.COLUMNS
      x = product(x, kernel, self.dtype, 0, split)
      x = x if bias is None else x + bias.reshape(self.parts, -1)
      return [x[..., n, :] for n in range(self.parts)]
    x = product(x, kernel, self.dtype, 0, placement.SPLIT.get(self.name))
    x = x if bias is None else x + bias
    # Split, not index: the gradient is then one concatenation.
    return jnp.split(x, self.parts, axis=-1) if self.parts > 1 else x


class LayerNorm(nn.Module):
  """Layer normalisation with scale and bias over the last axis, in float32."""

  eps: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    y = layer_norm(x, self.eps) * scale + bias
    return y.astype(stream(self.dtype))


def layer_norm(x: Array, eps: float) -> Array:
  """Zero mean, unit variance over the last axis: float32 [..., D]."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


class LayerScale(nn.Module):
  """A learned scale of each channel, the same at the start."""

  start: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.initializers.constant(self.start)
    return x * self.param('gamma', init, (x.shape[-1],)).astype(x.dtype)


class BatchNorm(nn.Module):
  """Normalisation over all axes but the last, in float32.

  By the statistics of the batch, always: they are those of the global batch,
  whatever the mesh, and no running averages are kept, since what is evaluated
  is the backbone.
  """

  eps: float = 1e-5
  affine: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = standardized(x.astype(jnp.float32), self.eps)
    if self.affine:
      scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
      bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
      y = y * scale + bias
    return y.astype(x.dtype)


def standardized(x: Array, eps: float = 0.0) -> Array:
  """Zero mean and unit (biased) variance of each channel over the batch."""
  axes = tuple(range(x.ndim - 1))
  x = x - x.mean(axes)
  return x * jax.lax.rsqrt(jnp.square(x).mean(axes) + eps)


def unit(x: Array) -> Array:
  """float32 of unit length over the last axis."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


NORMS = {'layer': LayerNorm, 'batch': BatchNorm}


def gelu(x: Array) -> Array:
  """The exact GELU, x Phi(x), computed in float32.

  By erf, as PyTorch does: jax.nn.gelu's erfc costs three times as much on a
  CPU and differs by rounding alone.
  """
  y = x.astype(jnp.float32)
  y = 0.5 * y * (1.0 + jax.lax.erf(y * np.float32(np.sqrt(0.5))))
  return y.astype(x.dtype)


def gelu_tanh(x: Array) -> Array:
  """GELU by tanh (SigLIP, GPT-2), computed in float32."""
  return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def quick_gelu(x: Array) -> Array:
  """x sigmoid(1.702 x) (CLIP), computed in float32."""
  y = x.astype(jnp.float32)
  return (y * jax.nn.sigmoid(1.702 * y)).astype(x.dtype)


ACTIVATIONS = {
  'gelu': gelu,
  'gelu_tanh': gelu_tanh,
  'quick_gelu': quick_gelu,
  'relu': nn.relu,
}


class Projection(nn.Module):
  """Linear layers with activations between: [..., D] -> float32 [..., out].

  Attributes:
    hidden: widths of the layers before the last.
    norm: before each activation: 'none', 'layer' or 'batch'.
    last_norm: BatchNorm without affine at the end (MoCo v3).
    activation: a key of ACTIVATIONS.
    cosine: width of a bottleneck of unit length before a last layer without
      bias whose columns have unit length, too (DINO); 0 for a plain last layer.
  """

  out: int
  hidden: tuple[int, ...] = ()
  norm: str = 'none'
  last_norm: bool = False
  activation: str = 'gelu'
  cosine: int = 0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    widths = (*self.hidden, self.cosine or self.out)
    for n, width in enumerate(widths):
      last = n + 1 == len(widths)
      # A batch norm takes away what a bias adds.
      bias = not self.last_norm if last else self.norm != 'batch'
      x = Dense(width, self.dtype, use_bias=bias, name=f'fc{n + 1}')(x)
      if not last:
        if self.norm != 'none':
          x = NORMS[self.norm](name=f'norm{n + 1}')(x)
        x = ACTIVATIONS[self.activation](x)
    x = x.astype(jnp.float32)
    if self.cosine:
      init = nn.initializers.normal(0.02)
      kernel = self.param('prototypes', init, (self.cosine, self.out))
      kernel = placement.gathered(kernel)
      x = jnp.einsum(
        '...d,md->...m', unit(x), unit(kernel.T),
        precision=jax.lax.Precision.HIGHEST,
      )  # fmt: skip
    return BatchNorm(affine=False)(x) if self.last_norm else x
