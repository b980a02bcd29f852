"""How long texts are in pieces: for a terminal, as a PNG, as a page."""

import html
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from m3i_jax.data.lengths import Lengths
from m3i_jax.data.vocabulary import Vocabulary
from m3i_jax.report import panel_html, style

SHOWN = 16  # of the most frequent pieces, and of the rarest
_WIDTH = 40  # characters of the longest bar
_INK, _BAR, _CUT = '#7d858f', '#3f86d6', '#e0803a'
_MORE = """
.pieces { font: 13px/1.9 ui-monospace, Menlo, Consolas, monospace; }
.pieces span { background: var(--bar); border-radius: 4px; margin-right: 3px;
  padding: .1rem .3rem; overflow-wrap: anywhere; }
.pieces p { color: var(--ink); max-width: none; }
figure.wide { max-width: 46rem; }
ul { padding: 0; }
"""


def terminal(
  measured: Lengths, words: Vocabulary, lengths: Sequence[int],
  examples: Sequence[Sequence[str]],
) -> str:  # fmt: skip
  """The numbers, a histogram, pieces and examples, as lines."""
  lines = [*told(measured, words, lengths), '']
  bars = measured.histogram()
  most = max(share for _, share in bars)
  wide = max(len(name) for name, _ in bars)
  for name, share in bars:
    bar = '█' * round(_WIDTH * share / most) or '▏' * (share > 0)
    lines.append(f'  {name:>{wide}}  {bar} {100 * share:.1f}%')
  lines += ['', *(f'{k:11} {" ".join(v)}' for k, v in _extremes(
    measured, words).items()), '']  # fmt: skip
  return '\n'.join([*lines, *('  ' + ' '.join(x) for x in examples)])


def told(
  measured: Lengths, words: Vocabulary, lengths: Sequence[int]
) -> list[str]:
  """What there is to say in words."""
  s = measured.summary(lengths)
  what = 'bytes' if words.kind == 'SentencePiece' else '[UNK]'
  cut = ', '.join(f'{_percent(v)} at {n}' for n, v in s['cut'].items())
  return [
    f'{words.kind}, {words.vocab_size:,} pieces, of which {s["never_used"]:,} '
    'are never used here',
    f'{s["texts"]:,} texts of {s["min"]} to {s["max"]:,} pieces, CLS and EOS '
    f'among them: mean {s["mean"]:.1f}, median {s["median"]:g}, 95% have at '
    f'most {s["p95"]:g}; {s["pieces_per_word"]:.2f} pieces a word',
    f'cut: {cut} (config.data.text_length)',
    f'without a piece of their own, as {what}: '
    f'{_percent(s["unspelled_pieces"])} of the pieces, in '
    f'{_percent(s["unspelled_texts"])} of the texts',
  ]


def draw(measured: Lengths, lengths: Sequence[int]) -> bytes:
  """A PNG of the histogram, with a line where texts of `lengths` are cut."""
  figure = Figure(figsize=(6.4, 2.8), dpi=150)
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.09, 0.17, 0.88, 0.76))
  end = max(np.percentile(measured.pieces, 99.5), measured.pieces.min() + 9)
  step = int(max(1, (end - measured.pieces.min()) // 40))
  edges = np.arange(measured.pieces.min(), end + step + 1, step) - 0.5
  shares = np.full(len(measured.pieces), 100 / len(measured.pieces))
  axes.hist(np.minimum(measured.pieces, edges[-1]), edges, weights=shares,
            color=_BAR, rwidth=0.9)  # fmt: skip
  for length in lengths:
    if edges[0] < length < edges[-1]:
      axes.axvline(length + 0.5, color=_CUT, linewidth=1, linestyle=':')
      share = 100 * (measured.pieces > length).mean()
      axes.annotate(
        f'{length}: {share:.2g}% cut', (length + 0.5, 0.99),
        (3, 0), ('data', 'axes fraction'), 'offset points', fontsize=7,
        color=_CUT, va='top', rotation=90, ha='left',
      )
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set(color=_INK, linewidth=0.6)
  axes.tick_params(colors=_INK, labelsize=7, width=0.6, length=2)
  axes.set_xlabel('pieces, CLS and EOS among them', fontsize=7.5, color=_INK)
  axes.set_ylabel('% of the texts', fontsize=7.5, color=_INK)
  out = io.BytesIO()
  figure.savefig(out, format='png', transparent=True)
  return out.getvalue()


def page(
  title: str, measured: Lengths, words: Vocabulary, lengths: Sequence[int],
  examples: Sequence[Sequence[str]],
) -> str:  # fmt: skip
  """All of it as one self-contained page."""
  name = html.escape(title)
  lines = ''.join(
    f'<li>{html.escape(x)}</li>' for x in told(measured, words, lengths)
  )
  picture = panel_html.image(draw(measured, lengths), 'lengths of the texts')
  extremes = ''.join(
    f'<h3>{key}</h3>{_boxed(value)}'
    for key, value in _extremes(measured, words).items()
  )
  shown = ''.join(_boxed(example) for example in examples)
  return style.page(title, f"""<h1>{name}</h1>
<ul>{lines}</ul>
<h2>Lengths</h2>
<figure class="wide">{picture}</figure>
<h2>Pieces</h2>
<div class="pieces">{extremes}</div>
<h2>Texts, from the shortest to the longest</h2>
<div class="pieces">{shown}</div>""", _MORE)


def _extremes(measured: Lengths, words: Vocabulary) -> dict[str, list[str]]:
  order = [i for i in measured.ranked() if measured.spelled[i]]
  return {
    'most used': [words.name(i) for i in order[:SHOWN]],
    'rarest': [words.name(i) for i in order[-SHOWN:][::-1]],
  }


def _boxed(pieces: Sequence[str]) -> str:
  boxes = ''.join(f'<span>{html.escape(x)}</span> ' for x in pieces)
  return f'<p>{boxes}</p>'


def _percent(share: float) -> str:
  """'0%' only of none."""
  percent = 100 * share
  return f'{percent:.1f}%' if percent >= 0.1 else f'{percent:.1g}%'
