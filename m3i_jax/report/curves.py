"""Curves of a run as small multiples: one little picture a metric."""

import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Sections in order; a metric goes to the first one whose pattern it matches.
SECTIONS = (
  ('Evaluations, %', r'top\d+$'),
  ('Losses', r'loss'),
  ('Targets: do they collapse?', r'rank|agreement|cosine|std|^alarm/'),
  ('Accuracy while training', r'^top\d+/|accuracy|correct|^correlation'),
  ('Balance and gradients', r'lambda|grad|^g_[um]$'),
  ('Learning rate and averaging', r'(^|[/_])(lr|learning_rate|momentum|ema)'),
  ('Speed', r'step_ms|images_per|mfu|wait'),
)
_SIDE = r'_(se|chance)$|^floor/'  # belongs to another metric
# Grey and blue that read on white and on black alike.
_INK, _LINE, _FAINT = '#7d858f', '#3f86d6', '#3f86d655'
_SMOOTH_FROM = 60  # points


class Curve(NamedTuple):
  """A metric over steps, float64 [N] each.

  floor: of a target's loss, what the best constant prediction costs; None for
    other metrics.
  """

  steps: np.ndarray
  values: np.ndarray
  floor: np.ndarray | None = None


def sections(
    history: Iterable[Mapping[str, Any]],
) -> dict[str, dict[str, Curve]]:
  """{section: {metric: curve}} of what was ever measured."""
  series: dict[str, dict[float, float]] = {}
  for row in history:
    for key, value in row.items():
      if key != 'step' and 'step' in row and _is_number(value):
        series.setdefault(key, {})[row['step']] = value
  found: dict[str, dict[str, Curve]] = {name: {} for name, _ in SECTIONS}
  for key, points in series.items():
    home = next((n for n, p in SECTIONS if re.search(p, key)), None)
    if home and not re.search(_SIDE, key):
      steps, values = _arrays(points)
      floor = key.startswith('loss/') and series.get(f'floor{key[4:]}')
      found[home][key] = Curve(
        steps, values, np.interp(steps, *_arrays(floor)) if floor else None
      )
  return {name: metrics for name, metrics in found.items() if metrics}


def draw(curve: Curve, levels: Mapping[str, float]) -> bytes:
  """A PNG of one curve, on a transparent ground; levels are dotted lines."""
  steps, values, floor = curve
  figure = Figure(figsize=(2.6, 1.5), dpi=170)
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.17, 0.16, 0.79, 0.78))
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set(color=_INK, linewidth=0.6)
  axes.tick_params(colors=_INK, labelsize=6, width=0.6, length=2)
  smooth = len(values) >= _SMOOTH_FROM
  lone = len(values) == 1
  axes.plot(
    steps, values, color=_FAINT if smooth else _LINE, linewidth=1.2,
    marker='.' if len(values) < 20 else '', markersize=6 if lone else 4,
  )
  if smooth:
    axes.plot(steps, smoothed(values), color=_LINE, linewidth=1.4)
  if floor is not None:
    axes.plot(steps, floor, color=_INK, linewidth=0.8, linestyle='--')
  if values.min() > 0 and values.max() > 100 * values.min():
    axes.set_yscale('log')
  for name, level in levels.items():
    axes.axhline(level, color=_INK, linewidth=0.8, linestyle=':')
    axes.annotate(
      name, (0.99, level), (0, 1), ('axes fraction', 'data'), 'offset points',
      fontsize=5.5, color=_INK, ha='right',
    )
  axes.locator_params(axis='x', nbins=4)
  axes.margins(x=0.02, y=0.12)
  out = io.BytesIO()
  figure.savefig(out, format='png', transparent=True)
  return out.getvalue()


def smoothed(values: np.ndarray) -> np.ndarray:
  """The mean of the nearest thirtieth of the run; fewer points at its ends."""
  window = np.ones(len(values) // 30 // 2 * 2 + 1)
  count = np.convolve(np.ones(len(values)), window, 'same')
  return np.convolve(values, window, 'same') / count


def _arrays(points: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
  return np.array([*points], float), np.array([*points.values()], float)


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and math.isfinite(value)
  )
