"""Results as text: one row a model, one column a metric, the best marked."""

from collections.abc import Mapping

Rows = Mapping[str, Mapping[str, float]]


def columns(rows: Rows) -> list[str]:
  """Metrics in order of appearance; `x_se`, `x_chance` belong to `x`."""
  keys = dict.fromkeys(key for row in rows.values() for key in row)
  return [k for k in keys if not k.endswith(('_se', '_chance'))]


def cell(row: Mapping[str, float], key: str) -> str:
  """'55.2 ±1.2', '55.2' without a standard error, '-' without a value."""
  if key not in row:
    return '-'
  error = row.get(f'{key}_se')
  return f'{row[key]:.1f}' + ('' if error is None else f' ±{error:.1f}')


def chance(rows: Rows, key: str) -> str:
  """What guessing reaches, two digits where it is small."""
  found = [r[f'{key}_chance'] for r in rows.values() if f'{key}_chance' in r]
  if not found:
    return '-'
  return f'{found[0]:.1f}' if found[0] >= 1 else f'{found[0]:.2f}'


def best(rows: Rows, key: str) -> set[str]:
  """The rows that print the highest value, if another row has one too."""
  shown = {n: round(r[key], 1) for n, r in rows.items() if key in r}
  if len(shown) < 2:
    return set()
  return {name for name, value in shown.items() if value == max(shown.values())}


def table(rows: Rows, width: int = 80) -> str:
  """Aligned plain text, folded into blocks of at most `width` characters.

  rows: {'untrained': {'NAME/METRIC': percent, ...}, ...}. '*' marks the best.
  """
  heads = [_words(key) for key in columns(rows)]
  height = max(map(len, heads), default=0)
  names = [*[''] * height, 'chance', *rows]
  side = max(map(len, names))
  blocks: list[list[list[str]]] = []
  room = 0
  for key, head in zip(columns(rows), heads, strict=True):
    top = [''] * (height - len(head)) + [f'{word} ' for word in head]
    lines = top + _values(rows, key)
    need = 1 + max(map(len, lines))
    if not blocks or need > room:
      blocks.append([])
      room = width - side
    blocks[-1].append([line.rjust(need) for line in lines])
    room -= need
  labels = [name.ljust(side) for name in names]
  return '\n\n'.join(
    '\n'.join(''.join(line).rstrip() for line in zip(*parts, strict=True))
    for parts in ([labels, *block] for block in blocks)
  )


def _words(key: str) -> list[str]:
  return key.replace('/', ' ').replace('_', ' ').split()


def _values(rows: Rows, key: str) -> list[str]:
  won = best(rows, key)
  cells = [
    cell(row, key) + ('*' if name in won else ' ') for name, row in rows.items()
  ]
  return [f'{chance(rows, key)} ', *cells]


def markdown_table(rows: Rows) -> str:
  """The same for a Markdown file, the best in bold."""
  keys = columns(rows)
  lines = [['', *('<br>'.join(_words(key)) for key in keys)]]
  lines.append(['---', *('---:' for _ in keys)])
  lines.append(['chance', *(chance(rows, key) for key in keys)])
  for name, row in rows.items():
    cells = [
      f'**{cell(row, key)}**' if name in best(rows, key) else cell(row, key)
      for key in keys
    ]
    lines.append([name, *cells])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
