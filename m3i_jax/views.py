"""y and t_y: two crops of one picture, and where in the picture they lie."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet, RGB
STD = np.array([0.229, 0.224, 0.225], np.float32)


@flax.struct.dataclass
class View:
  """One crop of each picture of a batch: y = t_y(s) together with its t_y.

  Attributes:
    image: [B, S, S, 3], uint8 from the host, float32 in 0..1 after the colour
      augmentation.
    box: float32 [B, 4], top, left, height, width of the crop as fractions of
      the picture, in the picture's frame after mirroring.
    flip: bool [B], the picture was mirrored before it was cropped.
  """

  image: jax.Array
  box: jax.Array
  flip: jax.Array


def views_of(batch: dict) -> dict[str, View]:
  """The views that a batch from the host holds, by their letters."""
  return {k: View(**batch[k]) for k in ('a', 'b') if k in batch}


def normalize(image: jax.Array) -> jax.Array:
  """uint8 0..255 or float 0..1 [..., 3] to float32 of ImageNet's scale."""
  if image.dtype == jnp.uint8:
    image = image.astype(jnp.float32) / 255.0
  return (image - MEAN) / STD


def denormalize(image: jax.Array) -> jax.Array:
  """The inverse of `normalize`, as float 0..1 [..., 3]."""
  return image * STD + MEAN


def patches(image: jax.Array, patch: int) -> jax.Array:
  """Non-overlapping patches, row by row: [B, S, S, c] -> [B, L, p * p * c]."""
  b, side, _, channels = image.shape
  g = side // patch
  x = image.reshape(b, g, patch, g, patch, channels)
  return x.swapaxes(2, 3).reshape(b, g * g, patch * patch * channels)


def unpatches(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of `patches`: [B, L, p * p * c] -> [B, S, S, c]."""
  b, cells, depth = x.shape
  g, channels = round(cells**0.5), depth // patch**2
  x = x.reshape(b, g, g, patch, patch, channels).swapaxes(2, 3)
  return x.reshape(b, g * patch, g * patch, channels)
