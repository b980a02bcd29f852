"""Pictures like photographs, and crops of them as exact as can be.

Noise whose spectrum falls as that of photographs (power 1 / f^3), with the
contrast and the correlated colours of some: JPEGs of their size and cost.
"""

import functools
import io

import numpy as np
from PIL import Image

from m3i_jax.prepare import examine
from m3i_jax.prepare.items import Item, Options

HEIGHT, WIDTH, QUALITY = 375, 500, 90  # about 47 kB, like ImageNet's
BORDER = 4  # pixels of a view where programs treat the edge differently
_COLOURS = np.array([[1, .35, .1], [1, -.05, -.05], [1, -.3, .1]])


def photo(seed: int) -> bytes:
  """A JPEG, the same for a seed but for the codec's version."""
  rng = np.random.default_rng(seed)
  f = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
  f[0, 0] = 1
  waves = np.exp(2j * np.pi * rng.random((3, *f.shape))) / f**1.5
  noise = np.fft.irfft2(waves, s=(HEIGHT, WIDTH))
  noise /= noise.std((1, 2), keepdims=True)
  pixels = 128 + 45 * np.einsum('ck,khw->hwc', _COLOURS, noise)
  return jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), QUALITY)


def jpeg(image: Image.Image, quality: int, **how) -> bytes:
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=quality, **how)
  return file.getvalue()


def shrunk(data: bytes, short_side: int) -> bytes:
  """What `prepare --short_side` makes of a picture."""
  found = examine.examine(Item('', data), Options(short_side=short_side))
  return found.item.image


def exact(pixels: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
  """A crop by antialiased bicubic resampling, in floating point.

  Args:
    pixels: uint8 [H, W, 3].
    box: int [4]: top, left, height, width.
  Returns:
    float64 [size, size, 3].
  """
  top, left, height, width = map(int, box)
  part = pixels[top : top + height, left : left + width].astype(float)
  part = np.tensordot(_weights(height, size), part, 1)
  part = np.tensordot(part, _weights(width, size), (1, 1))
  return part.swapaxes(1, 2).clip(0, 255)


@functools.lru_cache(maxsize=256)
def _weights(length: int, size: int) -> np.ndarray:
  """[size, length]: R. Keys' cubic (a = -1/2), widened to cover the input."""
  scale = length / size
  centres = (np.arange(size)[:, None] + .5) * scale
  x = abs(np.arange(length) + .5 - centres) / max(scale, 1)
  near = (1.5 * x - 2.5) * x**2 + 1
  far = ((-.5 * x + 2.5) * x - 4) * x + 2
  weights = np.where(x < 1, near, np.where(x < 2, far, 0))
  return weights / weights.sum(1, keepdims=True)


def psnr(views: np.ndarray, wanted: np.ndarray) -> float:
  """dB between two [..., S, S, 3] in 0..255, without their borders."""
  inner = slice(BORDER, -BORDER)
  error = views[..., inner, inner, :] - wanted[..., inner, inner, :]
  return 10 * float(np.log10(255**2 / np.mean(error**2)))
