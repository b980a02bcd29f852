"""What the ConvNets share: convolutions, and tokens made of feature maps."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.models import layers, placement, transformer

Array = jax.Array


def torch_uniform(fan_in: int) -> Callable:
  """PyTorch's default for convolutions: U(-1, 1) / sqrt(fan_in)."""
  bound = float(1 / np.sqrt(fan_in))

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Conv(nn.Module):
  """k x k convolution with stride: [B, H, W, C] -> [B, H/s, W/s, width].

  Attributes:
    pad: zeros on each side, as in PyTorch.
    kernel_init: None for PyTorch's default, also of the bias.
  """

  width: int
  kernel: int
  stride: int = 1
  pad: int = 0
  use_bias: bool = True
  kernel_init: Callable | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k, dtype = self.kernel, layers.stream(self.dtype)
    default = torch_uniform(k * k * x.shape[-1])
    shape = (k, k, x.shape[-1], self.width)
    kernel = self.param('kernel', self.kernel_init or default, shape)
    x = jax.lax.conv_general_dilated(
      x.astype(dtype),
      placement.gathered(kernel.astype(dtype)),
      (self.stride, self.stride),
      [(self.pad, self.pad)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    if not self.use_bias:
      return x
    init = nn.initializers.zeros if self.kernel_init else default
    return x + self.param('bias', init, (self.width,)).astype(dtype)


class DepthwiseConv(nn.Module):
  """k x k convolution of each channel by itself, k odd, the sides kept."""

  kernel: int
  kernel_init: Callable | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k, dtype, width = self.kernel, layers.stream(self.dtype), x.shape[-1]
    default = torch_uniform(k * k)
    kernel = self.param(
      'kernel', self.kernel_init or default, (k, k, 1, width)
    )
    kernel = placement.gathered(kernel.astype(dtype))
    init = nn.initializers.zeros if self.kernel_init else default
    bias = self.param('bias', init, (width,)).astype(dtype)
    # XLA's CPU convolution of single channels is 10 to 30 times slower.
    return bias + jax.lax.platform_dependent(
      x.astype(dtype), kernel, cpu=depthwise_sum, default=depthwise_conv
    )


@jax.custom_vjp
def depthwise_sum(x: Array, kernel: Array) -> Array:
  """[B, H, W, C] by [k, k, 1, C]: k * k shifted products, summed in float32.

  The gradient to x is the same sum with the kernel turned around, half the time
  of what differentiation makes of it.
  """
  k, shifted = kernel.shape[0], _shifts(x, kernel.shape[0])
  kernel = kernel.astype(jnp.float32)
  taps = (shifted(i, j) * kernel[i, j, 0] for i in range(k) for j in range(k))
  return sum(taps).astype(x.dtype)


def _shifts(x: Array, k: int) -> Callable:
  """What tap (i, j) of a k x k kernel sees of each channel, in float32."""
  _, height, width, _ = x.shape
  x = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))

  def shifted(i, j: int) -> Array:
    rows = jax.lax.dynamic_slice_in_dim(x, i, height, 1)
    return rows[:, :, j : j + width].astype(jnp.float32)

  return shifted


def _depthwise_forward(x, kernel):
  return depthwise_sum(x, kernel), (x, kernel)


def _depthwise_backward(operands, gradient):
  x, kernel = operands
  k, shifted = kernel.shape[0], _shifts(x, kernel.shape[0])
  to_x = depthwise_sum(gradient, kernel[::-1, ::-1])
  gradient = gradient.astype(jnp.float32)
  # Row by row: k * k sums at once take long to compile.
  to_kernel = jax.lax.map(
    lambda i: jnp.stack(
      [(shifted(i, j) * gradient).sum((0, 1, 2)) for j in range(k)]
    ),
    jnp.arange(k),
  )
  return to_x, to_kernel[:, :, None].astype(kernel.dtype)


depthwise_sum.defvjp(_depthwise_forward, _depthwise_backward)


def depthwise_conv(x: Array, kernel: Array) -> Array:
  """The same, left to the compiler."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(kernel.shape[0] // 2,) * 2] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


class Pyramid:
  """What four stages of strides 4 to 32 are as a backbone, see `models`.

  Of a module with `depths`, `fused`, `drop_path` and `uniform`.
  """

  whole = True
  class_token = False
  stride = 32
  depth = 1

  @property
  def fused_width(self) -> int:
    """D of the fused stride-16 map, 0 if the tokens are the last map's."""
    return self.fused

  @property
  def patch(self) -> int:
    """The side of a token's cell in pixels."""
    return 16 if self.fused_width else 32

  def rates(self) -> list[tuple[float, ...]]:
    """Stochastic depth of each block of each stage."""
    rates = transformer.drop_rates(
      self.drop_path, sum(self.depths), self.uniform
    )
    stages = np.split(rates, np.cumsum(self.depths)[:-1])
    return [tuple(map(float, stage)) for stage in stages]


class Fuse(nn.Module):
  """One stride-16 map of the two last stages: M3I's feature of a ConvNet.

  InternImage-H's released head: a 1x1 convolution of the last map to four times
  the width, spread over 2 x 2 cells, plus one of the map before it.
  """

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x3: Array, x4: Array) -> Array:
    """[B, H, W, C], [B, H/2, W/2, 2C] -> [B, H, W, width]."""
    x4 = layers.Dense(4 * self.width, self.dtype, name='x4')(x4)
    x3 = layers.Dense(self.width, self.dtype, name='x3')(x3)
    return pixel_shuffle(x4) + x3


def pixel_shuffle(x: Array) -> Array:
  """[B, H, W, 4 C] -> [B, 2H, 2W, C], channels in PyTorch's order (c, a, b)."""
  b, height, width, channels = x.shape
  x = x.reshape(b, height, width, channels // 4, 2, 2)
  x = x.transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(b, 2 * height, 2 * width, channels // 4)


def tokens(x: Array, cells: Array | None) -> Array:
  """A map [B, H, W, D] as tokens [B, N, D], in the order of `cells` [B, N]."""
  x = x.reshape(x.shape[0], -1, x.shape[-1])
  if cells is None:
    return x
  # A product with ones and zeros: exact, and its gradient is no scatter.
  pick = jax.nn.one_hot(cells, x.shape[1], dtype=x.dtype)
  return jnp.einsum(
    'bnl,bld->bnd', pick, x, precision=jax.lax.Precision.HIGHEST
  )


class FixedNorm(nn.Module):
  """BatchNorm by running statistics, which are parameters that do not learn.

  Only the classifier of a released ConvNet has it; PyTorch's eval mode.
  """

  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = (x.shape[-1],)
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale = self.param('scale', ones, width)
    bias = self.param('bias', zeros, width)
    mean = jax.lax.stop_gradient(self.param('mean', zeros, width))
    var = jax.lax.stop_gradient(self.param('var', ones, width))
    self.param('count', zeros, ())  # of the batches they were taken from
    x = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + self.eps)
    return x * scale + bias
