"""The panel as HTML: tiles that wrap, so that it reads on a phone as well."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from m3i_jax.report import panel as panel_lib
from m3i_jax.report import panel_figure


def section(panel: panel_lib.Panel | None) -> str:
  """The panel with its legend; '' for none."""
  if panel is None:
    return ''
  columns = panel_lib.columns(panel)
  rows = [_example(columns, at) for at in range(len(columns[0].notes))]
  return f"""<section>
<h2>What each target asks and predicts</h2>
<p>{legend(panel)}</p>
{''.join(rows)}
</section>"""


def legend(panel: panel_lib.Panel) -> str:
  """How to read what this panel has."""
  kinds = {target['kind'] for target in panel.targets.values()}
  told = []
  if panel_lib.is_mixed(panel):
    told.append(
      'Two images are mixed cell by cell: blue cells of the mask show image 1, '
      'the one in views a and b, orange ones show image 2.'
    )
  elif panel.mask is not None:
    told.append('Blue cells of the mask are visible, grey ones are hidden.')
  if 'dense' in kinds:
    told.append(
      'Features are drawn as colours, by one map for asked and predicted: the '
      'three main directions of what is asked.'
    )
  if kinds & {'dense', 'pixels'}:
    told.append(
      'Grey cells are not asked for. Explained: the share of the variance that '
      'the prediction accounts for.'
    )
  if kinds & {'category', 'text'}:
    told.append('Bars are probabilities; the truth is bold.')
  if 'caption' in kinds:
    told.append(
      'The true caption is bold, generated ones follow; their bars are the '
      'geometric mean of the probabilities of their pieces.'
    )
  return ' '.join(told)


def _example(columns: Sequence[panel_lib.Column], at: int) -> str:
  groups: dict[str, list[panel_lib.Column]] = {}
  for column in columns:
    groups.setdefault(column.group, []).append(column)
  parts = ''.join(group(*pair, at) for pair in groups.items())
  return f'<article>{parts}</article>'


def group(name: str, columns: Sequence[panel_lib.Column], at: int) -> str:
  """The columns' entries `at` side by side, under a name."""
  tiles = []
  for column in columns:
    inner = (
      picture(column.pictures[at], column.title)
      if column.pictures
      else _names(column.names[at], column.wraps)
    )
    wide = '' if column.pictures else ' class="wide"'
    note = f'<small>{html.escape(column.notes[at])}</small>'
    tiles.append(
      f'<figure{wide}><figcaption>{html.escape(column.title)}</figcaption>'
      f'{inner}{note}</figure>'
    )
  return (
    f'<div class="group"><h3>{html.escape(name)}</h3>'
    f'<div class="tiles">{"".join(tiles)}</div></div>'
  )


def _names(
    lines: Sequence[tuple[str, float | None, bool]], wraps: bool
) -> str:
  items = ''.join(
    f'<li{" class=truth" if right else ""}>'
    f'<i style="width:{100 * panel_figure.share(probability):.1f}%"></i>'
    f'<b>{html.escape(name)}</b>'
    f'<span>{panel_figure.percent(probability)}</span></li>'
    for name, probability, right in lines
  )
  return f'<ol{" class=wraps" if wraps else ""}>{items}</ol>'


def picture(pixels: np.ndarray, title: str) -> str:
  """uint8 [h, w, 3] inside the page."""
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, 'PNG', optimize=True)
  return image(out.getvalue(), title)


def image(png: bytes, title: str) -> str:
  """A PNG inside the page."""
  data = base64.b64encode(png).decode()
  return (
    f'<img src="data:image/png;base64,{data}" alt="{html.escape(title)}">'
  )
