"""Colour augmentation on the device, one picture at a time under `vmap`.

The six operations and their order are those of Table 7, with the values of
SiameseIM: the crop and the mirror happen on the host (data/pipeline.py), then
here colour jitter, grayscale, Gaussian blur, solarize. Each picture is changed
by its own key alone, whatever the batch or the mesh.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from m3i_jax.views import View

GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow


@dataclasses.dataclass(frozen=True)
class Colour:
  """How one view's colours are changed. Probabilities in 0..1.

  Attributes:
    jitter: probability of the jitter, whose strengths follow: the factors are
      uniform in 1 +- brightness, contrast, saturation, and the hue turns by up
      to `hue` of the circle.
    gray: probability of losing the colours.
    blur: probability of a Gaussian blur; its standard deviation is uniform in
      `sigma`, in pixels of the view.
    solarize: probability of inverting all values from one half upwards.
  """

  jitter: float = 0.8
  brightness: float = 0.4
  contrast: float = 0.4
  saturation: float = 0.2
  hue: float = 0.1
  gray: float = 0.2
  blur: float = 0.0
  sigma: tuple[float, float] = (0.1, 2.0)
  solarize: float = 0.0


def augment(view: View, colour: Colour, key: jax.Array) -> View:
  """The view with its colours changed: float32 [B, S, S, 3] in 0..1.

  Args:
    view: image uint8 or float in 0..1.
    key: of this view and step; picture n uses fold_in(key, n).
  """
  image = view.image
  if image.dtype == jnp.uint8:
    image = image.astype(jnp.float32) / 255.0
  key, order_key = jax.random.split(key)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(image)))
  k = jax.vmap(lambda k: jax.random.split(k, 4))(keys)
  if colour.jitter:
    image = _sometimes(
      jitter(image, colour, k[:, 0], order_key), image, colour.jitter, k[:, 0]
    )
  if colour.gray:
    image = _sometimes(_gray3(image), image, colour.gray, k[:, 1])
  if colour.blur:
    low, high = colour.sigma
    sigma = _uniform(k[:, 2], low, high)
    image = _sometimes(
      gaussian_blur(image, sigma, high), image, colour.blur, k[:, 2]
    )
  if colour.solarize:
    image = _sometimes(solarize(image), image, colour.solarize, k[:, 3])
  return view.replace(image=image)


def jitter(
  image: jax.Array, colour: Colour, keys: jax.Array, order_key: jax.Array
) -> jax.Array:
  """Brightness, contrast, saturation and hue in an order drawn for the batch.

  torchvision draws an order per picture; one order a step costs a quarter and
  over the steps every picture meets every order.
  """
  strength = (colour.brightness, colour.contrast, colour.saturation)
  # fold_in: `keys` also decides, in `_sometimes`, whether the jitter is used.
  keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 1), 4))(keys)
  factors = [
    _uniform(keys[:, n], max(0.0, 1 - s), 1 + s) for n, s in enumerate(strength)
  ] + [_uniform(keys[:, 3], -colour.hue, colour.hue)]
  operations = [
    lambda x: brightness(x, factors[0]),
    lambda x: contrast(x, factors[1]),
    lambda x: saturation(x, factors[2]),
    lambda x: hue(x, factors[3]),
  ]
  for operation in jax.random.permutation(order_key, 4):
    image = jax.lax.switch(operation, operations, image)
  return image


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend [B, S, S, 3] with black: factor [B], 1 leaves it as it is."""
  return jnp.clip(image * _per_picture(factor), 0.0, 1.0)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend [B, S, S, 3] with the mean of its gray picture: factor [B]."""
  mean = (image @ GRAY).mean((1, 2))[:, None, None, None]
  return jnp.clip(mean + _per_picture(factor) * (image - mean), 0.0, 1.0)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Blend [B, S, S, 3] with its gray picture: factor [B]."""
  gray = (image @ GRAY)[..., None]
  return jnp.clip(gray + _per_picture(factor) * (image - gray), 0.0, 1.0)


def hue(image: jax.Array, turn: jax.Array) -> jax.Array:
  """Turn the hue (HSV) of [B, S, S, 3] by turn [B] of the circle."""
  r, g, b = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(-1)
  chroma = value - image.min(-1)
  safe = jnp.where(chroma > 0, chroma, 1.0)
  sector = jnp.where(
    value == r,
    (g - b) / safe,
    jnp.where(value == g, 2.0 + (b - r) / safe, 4.0 + (r - g) / safe),
  )
  sector = sector + 6.0 * turn[:, None, None]

  def channel(offset: float) -> jax.Array:
    # The value less the chroma times a trapezoid of the hue.
    k = sector + offset
    k = k - 6.0 * jnp.floor(k / 6.0)
    return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

  # Plane by plane: operations along three channels are slow to vectorise.
  return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def gaussian_blur(
  image: jax.Array, sigma: jax.Array, largest: float
) -> jax.Array:
  """Gaussian blur of [B, S, S, 3]: two banded [S, S] products a picture.

  Args:
    sigma: [B] standard deviation in pixels.
    largest: upper bound of sigma; the kernel is cut at three times that. Pixels
      beyond the border repeat the border, as in Pillow, whose own blur is three
      box filters close to this Gaussian.
  """
  side = image.shape[1]
  radius = int(np.ceil(3 * largest))
  offset = np.arange(-radius, radius + 1)
  sigma = jnp.maximum(sigma, 1e-3)[:, None]
  weight = jnp.exp(-0.5 * jnp.square(offset / sigma))
  weight = weight / weight.sum(-1, keepdims=True)
  # shift[o, i, j] = 1 where pixel i reads pixel j at offset o.
  source = np.clip(np.arange(side) + offset[:, None], 0, side - 1)
  shift = (source[..., None] == np.arange(side)).astype(np.float32)
  band = jnp.einsum('bo,oij->bij', weight, shift)
  image = jnp.einsum('bij,bjkc->bikc', band, image)
  return jnp.einsum('bkj,bijc->bikc', band, image)


def solarize(image: jax.Array) -> jax.Array:
  """Invert the values of 128 / 255 and more."""
  return jnp.where(image >= 128 / 255, 1.0 - image, image)


def _gray3(image: jax.Array) -> jax.Array:
  return jnp.broadcast_to((image @ GRAY)[..., None], image.shape)


def _per_picture(factor: jax.Array) -> jax.Array:
  return factor[:, None, None, None]


def _uniform(keys: jax.Array, low: float, high: float) -> jax.Array:
  draw = lambda k: jax.random.uniform(jax.random.fold_in(k, 2), (), minval=low,
                                      maxval=high)  # fmt: skip
  return jax.vmap(draw)(keys)


def _sometimes(changed, image, probability, keys):
  """`changed` for the pictures that a coin of the given probability picks."""
  coin = jax.vmap(lambda k: jax.random.uniform(k) < probability)(keys)
  return jnp.where(_per_picture(coin), changed, image)
