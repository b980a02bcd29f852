"""ablation.png: a panel a metric, a line a method, its seeds as a range."""

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from m3i_jax.evals import tables

# Colours that those who see few of them tell apart (Okabe and Ito).
COLOURS = {
  'intra': '#0072B2', 'inter': '#009E73', 'supervised': '#CC79A7',
  'several': '#D55E00',
}  # fmt: skip
NAMES = {
  'intra': 'own view', 'inter': 'other view', 'supervised': 'label or text',
  'several': 'several',
}  # fmt: skip
_STYLES = {'raw pixels': ':', 'untrained': '--'}


def draw(rows: Sequence, baselines: Sequence) -> bytes:
  """The PNG; rows and baselines are `runs.Row`s with scores."""
  order = sorted(rows, key=lambda row: list(COLOURS).index(row.family))
  keys = tables.columns({row.name: row.scores for row in rows})
  height = 1.3 + 0.27 * len(order)
  figure = Figure(figsize=(2.6 + 2.5 * len(keys), height), dpi=130)
  FigureCanvasAgg(figure)
  panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
  places = _places(order)
  for axes, key in zip(panels, keys, strict=True):
    _panel(axes, key, order, places, baselines)
  panels[0].set_yticks(places, [_title(row) for row in order], fontsize=8)
  panels[0].set_ylim(max(places) + 0.8, min(places) - 0.8)
  handles = {
    text: handle
    for axes in panels
    for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
  }
  figure.legend(
    handles.values(), handles.keys(), loc='lower center', fontsize=8,
    ncols=len(handles), frameon=False,
  )  # fmt: skip
  figure.tight_layout(rect=(0, 0.25 / height, 1, 1))
  out = io.BytesIO()
  figure.savefig(out, format='png')
  return out.getvalue()


def _places(order: Sequence) -> list[float]:
  """Heights of the rows, with a gap between families."""
  families = [row.family for row in order]
  return [
    at + 0.7 * len(set(families[: at + 1])) for at in range(len(families))
  ]


def _panel(axes, key: str, order, places, baselines) -> None:
  for row, place in zip(order, places, strict=True):
    if key not in row.scores:
      continue
    score = row.scores[key]
    colour = COLOURS[row.family]
    axes.plot(
      (score.low, score.high), (place, place), color=colour, linewidth=2.5,
      alpha=0.45, solid_capstyle='round',
    )  # fmt: skip
    axes.plot(
      score.mean, place, 'o', color=colour, markersize=5.5,
      label=NAMES[row.family],
    )  # fmt: skip
  for row in baselines:
    if key in row.scores:
      axes.axvline(
        row.scores[key].mean, color='#555555', linewidth=1,
        linestyle=_STYLES[row.name], label=row.name, zorder=0,
      )  # fmt: skip
  axes.set_title(_words(key), fontsize=9)
  axes.set_xlabel('%', fontsize=8)
  axes.tick_params(axis='x', labelsize=8)
  axes.tick_params(axis='y', length=0)
  axes.grid(color='#e6e6e6', linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right', 'left']].set_visible(False)


def _title(row) -> str:
  return f'({row.letter}) {row.title}' if row.letter else row.title


def _words(key: str) -> str:
  return key.removesuffix('/top1').replace('_', ' ').replace('/', ' ')
