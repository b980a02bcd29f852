"""Pictures drawn from their index: coloured shapes that can be learnt."""

from typing import Any

import numpy as np

SIDE = 64
SPLITS = ('train', 'test')
FEATURES = ('image', 'label', 'caption', 'tags', 'id')
_COLOURS = {
    'red': (214, 40, 40),
    'green': (56, 142, 60),
    'blue': (30, 90, 200),
    'yellow': (245, 200, 40),
    'purple': (130, 60, 170),
    'black': (30, 30, 30),
}
_SHAPES = ('circle', 'square', 'ring', 'cross')
NAMES = tuple(f'{c} {s}' for s in _SHAPES for c in _COLOURS)


def _inside(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Where the shape of unit radius covers the points y, x."""
  radius = np.hypot(y, x)
  extent = np.maximum(abs(y), abs(x))
  if shape == 'circle':
    return radius < 1
  if shape == 'square':
    return extent < .9
  if shape == 'ring':
    return (radius < 1) & (radius > .55)
  return (extent < 1) & (np.minimum(abs(y), abs(x)) < .33)


class Synthetic:
  """`length` records of `classes` classes; the label is index mod classes.

  Place, size, shade and ground differ by (split, index) and nothing else.
  """

  def __init__(self, length: int, classes: int, split: str):
    self.classes = NAMES[:classes]
    self.names = {'label': self.classes}
    self._length = length
    self._split = split

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, i: int) -> dict[str, Any]:
    label = i % len(self.classes)
    colour, shape = self.classes[label].split()
    return {
        'image': self._draw(i, colour, shape),
        'label': label,
        'caption': f'a {colour} {shape}',
        'tags': (colour, shape),
        'id': f'{self._split}/{i}',
    }

  def _draw(self, i: int, colour: str, shape: str) -> np.ndarray:
    rng = np.random.default_rng((SPLITS.index(self._split), i))
    size, shade, ground, *place = rng.random(5)
    radius = SIDE * (.18 + .14 * size)
    centre = radius + (SIDE - 2 * radius) * np.array(place)
    pixels = np.arange(SIDE) + .5
    y, x = (pixels - centre[:, None]) / radius
    inside = _inside(shape, y[:, None], x)
    picture = np.full((SIDE, SIDE, 3), 190 + 65 * ground)
    picture[inside] = np.array(_COLOURS[colour]) * (.8 + .2 * shade)
    picture += rng.normal(0, 3, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)
