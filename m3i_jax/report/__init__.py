"""The report of a run: what ran, what came out, one self-contained page.

    python -m m3i_jax.report WORKDIR

writes WORKDIR/report.html again, during a run as well, from metrics.jsonl,
results.json and panel.npz; what is not there yet is left out.
"""

import html
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m3i_jax import files
from m3i_jax.errors import UserError
from m3i_jax.evals import tables
from m3i_jax.report import curves, panel_figure, panel_html, style
from m3i_jax.report import panel as panel_lib

Rows = Mapping[str, Mapping[str, float]]


def write_report(
    workdir: str | os.PathLike,
    history: Sequence[Mapping[str, Any]],
    results: Rows,
    panel: panel_lib.Panel | None,
    config_text: str,
    title: str,
    about: Mapping[str, str] | None = None,
) -> Path:
  """Writes report.html (its path), panel.png, panel.npz and results.json.

  history: the rows of metrics.jsonl. results: metrics in percent by row, as
  `evals.evaluate` names them. about: a sentence by evaluator, `evals.explain`.
  """
  workdir = Path(workdir)
  saved = {
    'title': title, 'rows': results, 'about': about or {},
    'config': config_text,
  }
  files.write(workdir / 'results.json', json.dumps(saved, indent=1))
  if panel is not None:
    panel.save(workdir / 'panel.npz')
    panel_figure.draw(panel, workdir / 'panel.png')
  path = workdir / 'report.html'
  told = page(history, results, panel, config_text, title, about or {})
  files.write(path, told)
  return path


def page(
    history: Sequence[Mapping[str, Any]],
    results: Rows,
    panel: panel_lib.Panel | None,
    config_text: str,
    title: str,
    about: Mapping[str, str],
) -> str:
  """The whole page as text; nothing in it points to another file."""
  name = html.escape(title)
  return style.page(title, f"""<header>
<h1>{name}</h1>
<p>{_summary(history)}</p>
<details><summary>Configuration</summary>
<pre>{html.escape(config_text)}</pre></details>
</header>
{_results(results, about)}
{panel_html.section(panel)}
{_curves(history, results)}""")


def _summary(history: Sequence[Mapping[str, Any]]) -> str:
  steps = [row['step'] for row in history if 'step' in row]
  losses = [row['loss'] for row in history if row.get('loss') is not None]
  if not steps:
    return 'No step has been logged yet.'
  told = f'{max(steps):,} steps'
  if losses:
    told += f'; loss {losses[0]:.3g} at first, {losses[-1]:.3g} at last'
  return told + '.'


def _results(results: Rows, about: Mapping[str, str]) -> str:
  """Metrics downwards, models across: it fits the width of a phone."""
  keys = tables.columns(results)
  if not keys:
    return ''
  heads = ''.join(f'<th>{html.escape(name)}</th>' for name in results)
  lines, last = [], None
  for key in keys:
    name, _, metric = key.rpartition('/')
    if name != last:
      told = html.escape(about.get(name, ''))
      shown = html.escape(name.replace('_', ' '))
      lines.append(
        f'<tr class="about"><th colspan="{len(results) + 2}">{shown}'
        f'<span>{told}</span></th></tr>'
      )
      last = name
    won = tables.best(results, key)
    cells = ''.join(
      f'<td{" class=best" if row in won else ""}>'
      f'{_number(tables.cell(values, key))}</td>'
      for row, values in results.items()
    )
    lines.append(
      f'<tr><th>{html.escape(metric)}</th>'
      f'<td class="chance">{tables.chance(results, key)}</td>{cells}</tr>'
    )
  return f"""<section>
<h2>Results</h2>
<p>Percent, higher is better; \N{PLUS-MINUS SIGN} is one standard error over the
pictures asked. The best of each line is marked. Chance: without looking.</p>
<div class="scroll"><table>
<thead><tr><th></th><th>chance</th>{heads}</tr></thead>
<tbody>{''.join(lines)}</tbody>
</table></div>
</section>"""


def _number(text: str) -> str:
  value, _, error = text.partition(' ')
  return value + (f'<small>{error}</small>' if error else '')


def _curves(history: Sequence[Mapping[str, Any]], results: Rows) -> str:
  blocks = []
  for section, metrics in curves.sections(history).items():
    figures = ''.join(
      _curve(key, curve, _levels(results, key))
      for key, curve in metrics.items()
    )
    blocks.append(f'<h3>{section}</h3><div class="curves">{figures}</div>')
  if not blocks:
    return ''
  return f"""<section>
<h2>Curves</h2>
<p>Over steps, under the name that metrics.jsonl has, with the last value.
Dashed beside a target's loss: what the best constant prediction costs.</p>
{''.join(blocks)}
</section>"""


def _curve(key: str, curve: curves.Curve, levels: dict[str, float]) -> str:
  image = panel_html.image(curves.draw(curve, levels), key)
  return (
    f'<figure><figcaption><code>{html.escape(key)}</code>'
    f'<span>{curve.values[-1]:.3g}</span></figcaption>{image}</figure>'
  )


def _levels(results: Rows, key: str) -> dict[str, float]:
  """What the rows that never trained reach in a metric."""
  return {
    name: results[name][metric]
    for name in ('raw pixels', 'untrained')
    for metric in results.get(name, ())
    if key == metric or key.endswith(f'/{metric}')
  }


def read_history(path: Path) -> list[dict[str, Any]]:
  """Rows of a metrics.jsonl; a last line cut short by a kill is dropped."""
  rows = []
  for line in path.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


def main(argv: Sequence[str]) -> int:
  """Writes the report of a work directory again; the exit code."""
  if len(argv) != 1:
    raise UserError('usage: python -m m3i_jax.report WORKDIR')
  workdir = Path(argv[0])
  if not (workdir / 'metrics.jsonl').exists():
    raise UserError(
      f'{workdir} has no metrics.jsonl: name the --workdir of a run.'
    )
  history = read_history(workdir / 'metrics.jsonl')
  saved = {'title': workdir.resolve().name, 'rows': {}, 'config': ''}
  if (workdir / 'results.json').exists():
    saved |= json.loads((workdir / 'results.json').read_text())
  panel = None
  if (workdir / 'panel.npz').exists():
    panel = panel_lib.Panel.load(workdir / 'panel.npz')
  files.write(workdir / 'report.html', page(
    history, saved['rows'], panel, saved['config'], saved['title'],
    saved.get('about', {}),
  ))
  print(workdir / 'report.html')
  return 0


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
