"""The panel as one picture for a page that shows PNGs, such as a README."""

import os
import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from m3i_jax.report import panel as panel_lib

# Inches.
_TILE, _LIST, _WRAPPED = 1.15, 1.75, 2.7
_GAP, _GROUP_GAP, _EDGE = 0.09, 0.26, 0.15
_HEAD, _NOTE = 0.62, 0.28
_INK, _SOFT = '#24292f', '#7a828c'
_BAR, _RIGHT = '#dbe3ec', '#b7dcc0'
_LINES = 4  # of a caption
_SLOTS = 9  # lines of a list of captions, at least


def draw(panel: panel_lib.Panel, path: str | os.PathLike) -> None:
  """Writes the panel as a PNG, atomically: one row an example."""
  columns = panel_lib.columns(panel)
  rows = len(columns[0].notes)
  lefts, width = _lefts(columns)
  height = _HEAD + rows * (_TILE + _NOTE) + _EDGE
  figure = Figure(figsize=(width, height), dpi=140, facecolor='white')
  FigureCanvasAgg(figure)
  _heads(figure, columns, lefts, width, height)
  for column, left in zip(columns, lefts, strict=True):
    cells = [_entries(names, column.wraps) for names in column.names]
    used = [sum(len(entry.lines) for entry in entries) for entries in cells]
    slots = max([_SLOTS if column.wraps else 0, *used])
    for row in range(rows):
      top = height - _HEAD - row * (_TILE + _NOTE)
      box = (
        left / width, (top - _TILE) / height,
        _width(column) / width, _TILE / height,
      )
      axes = figure.add_axes(box, xticks=[], yticks=[])
      axes.spines[:].set(color='#c8ccd2', linewidth=0.6)
      if column.pictures:
        axes.imshow(column.pictures[row], interpolation='lanczos')
        axes.text(
          0.5, -0.04, column.notes[row].replace(', e', '\ne'), fontsize=5.5,
          color=_SOFT, ha='center', va='top', transform=axes.transAxes,
          linespacing=1.15,
        )
      else:
        _names(axes, cells[row], slots)
  figure.savefig(f'{path}.tmp', format='png')
  os.replace(f'{path}.tmp', path)


def _width(column: panel_lib.Column) -> float:
  return _TILE if column.pictures else _WRAPPED if column.wraps else _LIST


def _lefts(columns: list[panel_lib.Column]) -> tuple[list[float], float]:
  """The left edge of each column and the width of all, in inches."""
  lefts, at, group = [], _EDGE, columns[0].group
  for column in columns:
    if column.group != group:
      at, group = at + _GROUP_GAP - _GAP, column.group
    lefts.append(at)
    at += _width(column) + _GAP
  return lefts, at - _GAP + _EDGE


def _heads(
    figure: Figure,
    columns: list[panel_lib.Column],
    lefts: list[float],
    width: float,
    height: float,
) -> None:
  """Titles, and over each group its name with a line as wide as the group."""
  ends: dict[str, list[float]] = {}
  for column, left in zip(columns, lefts, strict=True):
    right = left + _width(column)
    ends.setdefault(column.group, [left, right])[1] = right
    title = column.title.replace(': ', ':\n').replace(' of image', '\nof image')
    figure.text(
      (left + right) / 2 / width, 1 - (_HEAD - 0.04) / height, title,
      fontsize=6.5, color=_INK, ha='center', va='bottom', linespacing=1.1,
    )
  for group, (left, right) in ends.items():
    y = 1 - 0.2 / height
    figure.add_artist(
      Line2D([left / width, right / width], [y, y], color=_SOFT, linewidth=0.7)
    )
    figure.text(
      left / width, y + 0.03 / height, group, fontsize=7.5, color=_INK,
      fontweight='bold', va='bottom',
    )


class _Entry(NamedTuple):
  """A name of a list, as lines that fit the list's width."""

  lines: list[str]
  probability: float | None
  right: bool


def _entries(names, wraps: bool) -> list[_Entry]:
  found = []
  for name, probability, right in names:
    if wraps:
      lines = textwrap.wrap(name, 41, max_lines=_LINES, placeholder='…')
    else:
      lines = [_short(name, 20 if right else 23)]
    found.append(_Entry(lines or [''], probability, right))
  return found


def _names(axes: Axes, entries: list[_Entry], slots: int) -> None:
  """Names over bars as long as their probability; the truth is bold."""
  axes.set(xlim=(0, 1), ylim=(slots, 0))
  axes.spines[:].set_visible(False)
  at = 0
  for lines, probability, right in entries:
    axes.add_patch(Rectangle(
      (0, at + 0.06), share(probability), len(lines) - 0.12,
      color=_RIGHT if right else _BAR, linewidth=0,
    ))
    for offset, line in enumerate(lines):
      axes.text(
        0.02, at + offset + 0.5, line, fontsize=6.5, color=_INK, va='center',
        fontweight='bold' if right else 'normal', parse_math=False,
      )
    axes.text(
      0.99, at + 0.5, percent(probability), fontsize=6, color=_SOFT,
      ha='right', va='center',
    )
    at += len(lines)


def share(probability: float | None) -> float:
  """How much of a bar to fill."""
  known = probability is not None and np.isfinite(probability)
  return probability if known else 0.0


def percent(probability: float | None) -> str:
  """'62%'; 'asked' for a truth that is not among the names; '' if unknown."""
  if probability is None:
    return 'asked'
  return f'{100 * probability:.0f}%' if np.isfinite(probability) else ''


def _short(name: str, length: int) -> str:
  return name if len(name) <= length else f'{name[: length - 1]}…'
