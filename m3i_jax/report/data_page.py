"""Pictures, labels and captions as the model will see them, on one page."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from m3i_jax.report import panel as panel_lib
from m3i_jax.report import panel_html, style

SIDE = 220  # of a shown picture, in the pixels of a page
_MORE = """
.source { position: relative; max-width: 100%; }
.source img { border-radius: 4px; }
.group .tiles figure { width: 150px; }
.group .tiles figcaption { min-height: 0; }
.source i {
  position: absolute; border: 2px solid; border-radius: 2px;
  box-shadow: 0 0 0 1px #0008, inset 0 0 0 1px #0008;
}
.source b {
  position: absolute; z-index: 1; top: 1px; left: 1px; padding: 0 .3rem;
  color: #000;
  font: 700 .7rem/1.35 system-ui, sans-serif; border-radius: 2px;
}
.source .b b { top: auto; left: auto; bottom: 1px; right: 1px; }
i.a { border-color: #5fa8ff; } i.a b { background: #5fa8ff; }
i.b { border-color: #ffb14a; } i.b b { background: #ffb14a; }
article { display: block; }
article h2 { margin: 0 0 .5rem; font-size: 1rem; overflow-wrap: anywhere; }
article h2 small { font-weight: 400; margin-left: .6rem; }
.row { display: flex; flex-wrap: wrap; gap: .6rem 1.4rem; }
.words { flex: 1 1 12rem; margin-top: 1.2rem; font-size: .9rem; }
.pieces span {
  font: 12px/1.8 ui-monospace, Menlo, Consolas, monospace;
  background: var(--bar); border-radius: 4px; padding: .08rem .28rem;
  margin-right: 3px; overflow-wrap: anywhere; color: var(--ink);
}
.pieces .lost { background: none; text-decoration: line-through;
  color: var(--soft); }
.words p { max-width: none; margin: .15rem 0; }
.words p b { color: var(--ink); font-weight: 600; }
"""


class Box(NamedTuple):
  """A crop in the picture as it is, in shares of its sides."""

  left: float
  top: float
  width: float
  height: float
  flip: bool

  @classmethod
  def of(cls, box: np.ndarray, flip: bool) -> 'Box':
    """From (top, left, height, width) in the frame of the flipped picture."""
    top, left, height, width = map(float, box)
    return cls(1 - left - width if flip else left, top, width, height, flip)


@dataclasses.dataclass(frozen=True)
class Example:
  """What there is of a row beside its views.

  Attributes:
    id, record: of the record.
    replaced: it stands in for one that cannot be read.
    picture: uint8 [h, w, 3], perhaps smaller than the source's.
    size: width and height of the source's.
    boxes: of each view.
    label: its name; '' for none.
    captions, tags: all that the record has.
    seen, lost: pieces of the caption that was drawn, CLS and EOS among them,
      and of what is cut off.
  """

  id: str
  record: int
  replaced: bool
  picture: np.ndarray
  size: tuple[int, int]
  boxes: Mapping[str, Box]
  label: str = ''
  captions: tuple[str, ...] = ()
  tags: tuple[str, ...] = ()
  seen: Sequence[str] = ()
  lost: Sequence[str] = ()


def page(
  title: str, told: Sequence[str], panel: panel_lib.Panel,
  examples: Sequence[Example], mixes: bool,
) -> str:  # fmt: skip
  """The whole page as text; nothing in it points to another file.

  Args:
    told: lines that stand above the pictures.
    panel: the views, the mask and the input, a row an example.
    mixes: two pictures make one input.
  """
  name = html.escape(title)
  above = ''.join(f'<p>{html.escape(line)}</p>' for line in told)
  columns = panel_lib.inputs(panel, mixes)
  shown = ''.join(
    _article(example, columns, at, examples[at ^ 1].id if mixes else '')
    for at, example in enumerate(examples)
  )
  return style.page(title, f"""<h1>{name}</h1>
{above}
<p>{_legend(panel, examples, mixes)}</p>
{shown}""", _MORE)


def _legend(panel, examples: Sequence[Example], mixes: bool) -> str:
  told = [
    'The boxes are where the views are cut from the picture, ⇋ marks those '
    'that are mirrored; the views are shown with their colours changed.'
  ]
  if panel.mask is not None:
    told.append(panel_html.legend(dataclasses.replace(
      panel, targets={'': {'kind': '', 'component': int(mixes)}}
    )))  # fmt: skip
  if any(example.lost for example in examples):
    told.append('Struck out: what is cut off at config.data.text_length.')
  return ' '.join(told)


def _article(
  example: Example, columns: list[panel_lib.Column], at: int, other: str
) -> str:
  notes = [f'record {example.record:,}', '{} × {}'.format(*example.size)]
  if other:
    notes.append(f'mixed with {other}')
  if example.replaced:
    notes.append('in place of one that cannot be read')
  return (
    f'<article><h2>{html.escape(example.id)}'
    f'<small>{html.escape(", ".join(notes))}</small></h2>'
    f'<div class="row"><div class="group"><h3>picture</h3>{_source(example)}'
    f'</div>{panel_html.group("as the model sees it", columns, at)}'
    f'{_words(example)}</div></article>'
  )


def _source(example: Example) -> str:
  boxes = ''.join(
    f'<i class="{name}" style="left:{100 * box.left:.2f}%;'
    f'top:{100 * box.top:.2f}%;width:{100 * box.width:.2f}%;'
    f'height:{100 * box.height:.2f}%"><b>{name}{" ⇋" * box.flip}</b></i>'
    for name, box in example.boxes.items()
  )
  picture = panel_html.picture(example.picture, 'the whole picture')
  width, height = example.size
  wide = SIDE * width / max(width, height)
  return (
    f'<div class="source" style="width:{wide:.0f}px">{picture}{boxes}</div>'
  )


def _words(example: Example) -> str:
  lines = []
  if example.label:
    lines.append(f'<p>label <b>{html.escape(example.label)}</b></p>')
  if example.seen:
    pieces = ''.join(f'<span>{html.escape(x)}</span> ' for x in example.seen)
    pieces += ''.join(
      f'<span class="lost">{html.escape(x)}</span> ' for x in example.lost
    )
    lines.append(f'<p class="pieces">text {pieces}</p>')
  for name in ('captions', 'tags'):
    if told := ' · '.join(getattr(example, name)):
      lines.append(f'<p>{name} <b>{html.escape(told)}</b></p>')
  return f'<div class="words">{"".join(lines)}</div>'
