"""The picture panel: for a few examples, what is asked and what is predicted.

`Panel` holds plain arrays, `columns` turns them into pictures and lists, and
`panel_figure.py` and `report.py` lay those out as a PNG and as HTML.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIDE = 192  # pixels of a drawn tile, at least
BLUE, ORANGE, GREY = (76, 120, 168), (238, 165, 67), (219, 221, 225)
_DRAWN = ('dense', 'pixels')
_LISTED = ('category', 'text', 'caption')


@dataclasses.dataclass(frozen=True)
class Panel:
  """n examples as the step saw them, all arrays of NumPy.

  views: {'a': [n, S, S, 3], 'b': ...}, uint8, or float in 0..1.
  mixed: like a view, the input as the encoder sees it; None if it is view a.
  mask: bool [n, g, g], True = visible, of a mixed input: owned by the first
    image; None without a mask.
  targets: by name, each a dict with 'kind' and
    'dense': 'asked', 'predicted' [n, Q, D], 'cells' int [n, Q], each of the
      L = g * g cells of the target view (all of them, if there is no mask to
      tell g), 'of' 'a' or 'b', 'component' 0 or 1 (whose view: the first
      image's, or the one mixed in; 0 if left out);
    'pixels': the same with D = p * p * 3 in 0..1, each patch row by row;
    'category', 'text': 'asked' n names, 'predicted' n lists of
      (name, probability), the likeliest first, 'component' as above;
    'caption': 'asked' n texts, 'predicted' n lists of (generated text, mean
      log-likelihood of its pieces, or None, and perhaps how it was searched
      for), 'component' as above.
  """

  views: Mapping[str, np.ndarray]
  mixed: np.ndarray | None = None
  mask: np.ndarray | None = None
  targets: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )

  def save(self, path: str | os.PathLike) -> None:
    """Writes an .npz of plain arrays, atomically."""
    arrays = {f'views/{name}': view for name, view in self.views.items()}
    arrays |= {
      name: array
      for name, array in (('mixed', self.mixed), ('mask', self.mask))
      if array is not None
    }
    told: dict[str, dict[str, Any]] = {}
    for name, target in self.targets.items():
      told[name] = {}
      for key, value in target.items():
        if isinstance(value, np.ndarray):
          arrays[f'targets/{name}/{key}'] = value
        else:
          told[name][key] = value
    arrays['targets'] = np.array(json.dumps(told, default=float))
    with open(f'{path}.tmp', 'wb') as file:
      np.savez_compressed(file, **arrays)
    os.replace(f'{path}.tmp', path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Panel':
    """Reads what `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
      arrays = dict(file)
    targets = json.loads(str(arrays.pop('targets')))
    views = {}
    for key in [k for k in arrays if '/' in k]:
      kind, name = key.split('/', 1)
      if kind == 'views':
        views[name] = arrays.pop(key)
      else:
        name, part = name.rsplit('/', 1)
        targets[name][part] = arrays.pop(key)
    return cls(views, targets=targets, **arrays)


class Column(NamedTuple):
  """One column of the panel, n entries long."""

  group: str  # 'input', or the target's name
  title: str
  pictures: list[np.ndarray]  # uint8 [h, w, 3]; [] for a list of names
  notes: list[str]
  # Name, probability or NaN if unknown (None: the truth, not predicted), true?
  names: list[list[tuple[str, float | None, bool]]]
  wraps: bool = False  # names are as long as a caption


def columns(panel: Panel) -> list[Column]:
  """What to draw, from left to right."""
  mixes = is_mixed(panel)
  found = inputs(panel, mixes)
  for name, target in panel.targets.items():
    if target['kind'] in _DRAWN:
      found += _asked_and_predicted(
        name, target, _grid(panel, target), mixes
      )
    elif target['kind'] in _LISTED:
      found.append(_list(name, target, mixes))
    else:
      raise ValueError(f'target {name!r}: no kind {target["kind"]!r}')
  return found


def inputs(panel: Panel, mixes: bool) -> list[Column]:
  """The views, the mask and the input; `mixes`: of two images."""
  found = [
    _shown(f'view {name}', view) for name, view in sorted(panel.views.items())
  ]
  if panel.mask is not None:
    found.append(_mask(panel.mask, mixes))
  if panel.mixed is not None:
    found.append(_shown('input (mixed)' if mixes else 'input', panel.mixed))
  return found


def is_mixed(panel: Panel) -> bool:
  """Whether a target asks for the second of two images."""
  return any(t.get('component', 0) for t in panel.targets.values())


def as_uint8(pictures: np.ndarray) -> np.ndarray:
  """Pictures as uint8; floats are in 0..1, what lies outside is clipped."""
  if pictures.dtype == np.uint8:
    return pictures
  return np.round(255 * np.clip(np.nan_to_num(pictures), 0, 1)).astype(np.uint8)


def colours(
    asked: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Features [n, Q, D] as colours [n, Q, 3] in 0..1, both by one map.

  The map is the first three principal axes of all asked tokens, each stretched
  so that the middle 96 percent of them span the range of a colour.
  """
  tokens = asked.reshape(-1, asked.shape[-1]).astype(np.float64)
  mean = tokens.mean(axis=0)
  axes = np.linalg.svd(tokens - mean, full_matrices=False)[2][:3]
  # The sign of an axis is arbitrary: make its largest entry positive.
  largest = np.argmax(np.abs(axes), axis=1)
  axes *= np.sign(axes[np.arange(len(axes)), largest])[:, None]
  axes = np.pad(axes, ((0, 3 - len(axes)), (0, 0)))
  low, high = np.percentile((tokens - mean) @ axes.T, [2, 98], axis=0)
  span = np.where(high - low > 1e-9, high - low, 1)
  return tuple(
    np.clip(((x - mean) @ axes.T - low) / span, 0, 1)
    for x in (asked, predicted)
  )


def agreement(
    asked: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Per example [n], the mean cosine of its tokens, the variance explained.

  Explained is 1 - |asked - predicted|^2 / |asked - mean|^2, the mean token
  taken over all examples: what predicting one token for all would score 0.
  """
  asked, predicted = asked.astype(np.float64), predicted.astype(np.float64)
  norms = np.linalg.norm(asked, axis=-1) * np.linalg.norm(predicted, axis=-1)
  cosine = (asked * predicted).sum(-1) / np.maximum(norms, 1e-12)
  spread = ((asked - asked.mean(axis=(0, 1))) ** 2).sum(axis=(1, 2))
  error = ((asked - predicted) ** 2).sum(axis=(1, 2))
  return cosine.mean(axis=1), 1 - error / np.maximum(spread, 1e-12)


def _grid(panel: Panel, target: Mapping[str, Any]) -> int:
  if panel.mask is not None:
    return panel.mask.shape[1]
  if target['kind'] == 'pixels':
    side = next(iter(panel.views.values())).shape[1]
    return side // round((target['asked'].shape[-1] / 3) ** 0.5)
  return int(np.ceil(np.sqrt(np.max(target['cells']) + 1)))


def _shown(title: str, pictures: np.ndarray) -> Column:
  tiles = [_enlarged(p, Image.Resampling.BICUBIC) for p in as_uint8(pictures)]
  return Column('input', title, tiles, [''] * len(tiles), [])


def _mask(mask: np.ndarray, mixes: bool) -> Column:
  cells = np.where(mask[..., None], BLUE, ORANGE if mixes else GREY)
  seen, total = mask.sum(axis=(1, 2)), mask[0].size
  notes = [
    f'{k} of image 1, {total - k} of 2' if mixes else f'{k} of {total} visible'
    for k in seen
  ]
  return Column('input', 'mask', [_cells(c) for c in cells], notes, [])


def _asked_and_predicted(
    name: str, target: Mapping[str, Any], grid: int, mixes: bool
) -> list[Column]:
  asked, predicted = target['asked'], target['predicted']
  dense = target['kind'] == 'dense'
  # Colours are all positive, so that any two pictures have a high cosine.
  notes = [
    (f'cosine {c:.2f}, ' if dense else '')
    + f'explained {100 * e:.0f}%'.replace('-0%', '0%')
    for c, e in zip(*agreement(asked, predicted), strict=True)
  ]
  if dense:
    pair = [c[:, :, None, None] for c in colours(asked, predicted)]
  else:
    side = round((asked.shape[-1] / 3) ** 0.5)
    pair = [x.reshape(*x.shape[:2], side, side, 3) for x in (asked, predicted)]
  what = 'features' if dense else 'pixels'
  title = f'asked: {what} of view {target["of"]}{_whose(target, mixes)}'
  heads = ((title, [''] * len(notes)), ('predicted', notes))
  found = []
  for (title, note), patches in zip(heads, pair, strict=True):
    tiles = [
      _cells(_placed(p, c, grid), separate=dense)
      for p, c in zip(as_uint8(patches), target['cells'], strict=True)
    ]
    found.append(Column(name, title, tiles, note, []))
  return found


def _whose(target: Mapping[str, Any], mixes: bool) -> str:
  return f' of image {target.get("component", 0) + 1}' if mixes else ''


def _list(name: str, target: Mapping[str, Any], mixes: bool) -> Column:
  caption = target['kind'] == 'caption'
  pairs = zip(target['asked'], target['predicted'], strict=True)
  names = [(_captions if caption else _choices)(*pair) for pair in pairs]
  title = f'predicted {target["kind"]}{_whose(target, mixes)}'
  return Column(name, title, [], [''] * len(names), names, caption)


def _choices(truth: str, predicted) -> list[tuple[str, float | None, bool]]:
  lines = [(said, float(p), said == truth) for said, p in predicted]
  if not any(right for *_, right in lines):
    lines.append((truth, None, True))
  return lines


def _captions(truth: str, predicted) -> list[tuple[str, float | None, bool]]:
  """The truth, then what is generated, as likely as its pieces on average."""
  lines = [(truth, None, True)]
  for said, mean, *how in predicted:
    probability = float('nan' if mean is None else np.exp(mean))
    right = said.casefold() == truth.casefold()  # pieces are lower-cased
    shown = ' '.join([said, *(f'({way})' for way in how)])
    lines.append((shown, probability, right))
  return lines


def _placed(patches: np.ndarray, cells: np.ndarray, grid: int) -> np.ndarray:
  """Patches [Q, p, p, 3] on a grey grid: uint8 [g * p, g * p, 3]."""
  side = patches.shape[1]
  canvas = np.full((grid * grid, side, side, 3), GREY, np.uint8)
  canvas[cells] = patches
  rows = canvas.reshape(grid, grid, side, side, 3).swapaxes(1, 2)
  return rows.reshape(grid * side, grid * side, 3)


def _cells(picture: np.ndarray, separate: bool = True) -> np.ndarray:
  """Enlarged with hard edges, and with thin white lines between cells."""
  tile = _enlarged(picture.astype(np.uint8), Image.Resampling.NEAREST).copy()
  if separate:
    at = np.arange(1, len(picture)) * len(tile) // len(picture)
    tile[at], tile[:, at] = 255, 255
  return tile


def _enlarged(picture: np.ndarray, how: Image.Resampling) -> np.ndarray:
  times = -(-SIDE // len(picture))
  size = (picture.shape[1] * times, picture.shape[0] * times)
  return np.asarray(Image.fromarray(picture).resize(size, how))
