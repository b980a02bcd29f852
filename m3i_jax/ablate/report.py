"""What an ablation writes: Tables 3 and 4, the orders in them, CSV, plot."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from m3i_jax import files
from m3i_jax.ablate import figure
from m3i_jax.ablate.runs import Row, Run, Spread, collect
from m3i_jax.evals import tables


def write(
  ablation: ConfigDict,
  workdir: Path,
  runs: Mapping[tuple[str, int], Run],
  failed: Sequence[str],
) -> None:
  """ablation.md, .csv and .png of the runs that have finished."""
  rows, baselines = collect(ablation, runs)
  about = next(iter(runs.values())).about
  written = {
    'ablation.md': markdown(ablation, rows, baselines, about, failed).encode(),
    'ablation.csv': as_csv(rows, baselines).encode(),
    'ablation.png': figure.draw(rows, baselines),
  }
  for name, content in written.items():
    files.write(workdir / name, content)


def markdown(
  ablation: ConfigDict,
  rows: Sequence[Row],
  baselines: Sequence[Row],
  about: Mapping[str, str],
  failed: Sequence[str],
) -> str:
  """The two tables, the paper's orders, and how to read them."""
  c = ablation
  parts = [
    '# Ablation',
    f'{c.frame.data.source}: '
    + (f'{c.seconds} seconds of steps' if c.seconds else f'{c.steps} steps')
    + f' of {c.batch_size} pictures, '
    + (f'at most {c.seeds} seeds' if c.seeds > 1 else 'one seed')
    + '. Percent, higher is better: mean of the seeds (lowest-highest). '
    '**Best of its table**; ≈: its seeds overlap with those of the best. '
    'Seconds are those of training steps alone. Paper: ImageNet-1k top-1 of '
    'ViT-B/16 after 400 epochs and fine-tuning.',
    '## One self-supervised target (Table 3)',
    table(sections(rows)) or 'None has finished.',
    f'## Several targets (Table 4), best by {words(c.best_by)}',
    table(together(rows, c.best_by) | {'No training': baselines}),
    '## The order in the paper, and here',
    orders(c.pairs, rows),
    '## How it was scored',
    '\n'.join(f'- {words(name)}: {line}' for name, line in about.items()),
    'Chance, and at most one standard error over the pictures: '
    + ', '.join(noise(rows))
    + '.',
  ]
  if c.seeds == 1:
    parts.append('One seed has no spread: no difference here is established.')
  if failed:
    parts.append('## Failed')
    parts.append('\n'.join(f'- {line}' for line in failed))
  return '\n\n'.join(parts) + '\n'


def noise(rows: Sequence[Row]) -> list[str]:
  """What guessing reaches in each metric, and how finely it is measured."""
  scores = {row.name: row.scores for row in rows}
  worst = lambda key: max(s[key].mean for s in scores.values() if key in s)
  return [
    f'{words(key)} {worst(f"{key}_chance"):.1f} ±{worst(f"{key}_se"):.1f}'
    for key in tables.columns(scores)
  ]


def sections(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Table 3's order: own view or another one, whole or masked input."""
  rows = sorted(rows, key=lambda row: row.letter)
  return {
    f'{family.capitalize()}-view, {seen} input': [
      row
      for row in rows
      if row.family == family
      and (row.runs[0].method[0] == 'full') == (seen == 'full')
    ]
    for family in ('intra', 'inter')
    for seen in ('full', 'masked')
  }


def together(rows: Sequence[Row], best_by: str) -> dict[str, list[Row]]:
  """Table 4's order; of Table 3 the best of each kind by a metric."""
  of = lambda family: [row for row in rows if row.family == family]
  best = [best_of(of(family), best_by) for family in ('intra', 'inter')]
  return {
    'Supervised': of('supervised'),
    'Best intra-view and best inter-view': [row for row in best if row],
    'Several': of('several'),
  }


def best_of(rows: Iterable[Row], key: str) -> Row | None:
  """The trained row with the highest mean, if there is one."""
  rows = [row for row in rows if row.runs and key in row.scores]
  return max(rows, key=lambda row: row.scores[key].mean, default=None)


def table(groups: Mapping[str, Sequence[Row]]) -> str:
  """One Markdown table; a line in italics begins a group."""
  rows = [row for group in groups.values() for row in group]
  if not rows:
    return ''
  keys = tables.columns({row.name: row.scores for row in rows})
  best = {key: best_of(rows, key) for key in keys}
  heads = ['', 'method', 'input', 'predicts', *map(words, keys), 'images',
           'seconds', 'images/s', 'encoder / all, M', 'paper']  # fmt: skip
  lines = [heads, ['---'] * 4 + ['---:'] * (len(heads) - 4)]
  for name, group in groups.items():
    if group:
      lines.append(['', f'*{name}*'] + [''] * (len(heads) - 2))
    for row in group:
      scores = [cell(row, key, best[key]) for key in keys]
      lines.append([row.letter, row.title, *facts(row, scores)])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def facts(row: Row, scores: list[str]) -> list[str]:
  """What a line says behind the title."""
  paper = f'{row.paper:.1f}' if row.paper else '-'
  if not row.runs:
    return ['-', '-', *scores, '0', '0', '-', '-', paper]
  run = row.runs[0]
  seconds = np.mean([run.seconds for run in row.runs])
  encoder, everything = run.parameters
  return [
    *run.method, *scores, f'{run.images:,}', f'{seconds:.0f}',
    f'{run.images / seconds:.0f}',
    f'{encoder / 1e6:.2f} / {everything / 1e6:.2f}', paper,
  ]  # fmt: skip


def cell(row: Row, key: str, best: Row | None) -> str:
  """'52.9 (52.3-53.4)', in bold if best, with ≈ if that may be chance."""
  if key not in row.scores:
    return '-'
  own = row.scores[key]
  text = f'{own.mean:.1f}'
  if own.high > own.low:
    text += f' ({own.low:.1f}-{own.high:.1f})'
  if row is best:
    return f'**{text}**'
  overlaps = best and own.seeds > 1 and not best.scores[key].beyond(own)
  return text + ' ≈' * bool(overlaps and row.runs)


def orders(pairs: Iterable[tuple[str, str]], rows: Sequence[Row]) -> str:
  """Each pair's difference in the paper and here, and whether they agree."""
  by_name = {row.name: row for row in rows}
  keys = tables.columns({row.name: row.scores for row in rows})
  lines = [['first', 'second', 'paper', *map(words, keys)]]
  lines.append(['---'] * 2 + ['---:'] * (len(lines[0]) - 2))
  for names in pairs:
    if not set(names) <= set(by_name):
      continue
    one, other = (by_name[name] for name in names)
    expected = one.paper - other.paper
    cells = [
      verdict(one.scores[k], other.scores[k], expected) for k in keys
    ]
    lines.append([one.title, other.title, f'{expected:+.1f}', *cells])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def verdict(one: Spread, other: Spread, expected: float) -> str:
  """'+1.2 holds', 'reversed', or 'open' where the seeds overlap."""
  difference = one.mean - other.mean
  if not (one.beyond(other) or other.beyond(one)):
    said = 'open'
  elif abs(expected) < 0.05:
    said = 'differs'  # where the paper's are equal
  else:
    said = 'holds' if difference * expected > 0 else 'reversed'
  return f'{difference:+.1f} {said}'


def as_csv(rows: Sequence[Row], baselines: Sequence[Row]) -> str:
  """A line a row: the same numbers, and which lie clearly below the best."""
  everyone = [*rows, *baselines]
  keys = tables.columns({row.name: row.scores for row in everyone})
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(
    ['row', 'letter', 'family', 'input', 'predicts', 'seeds', 'images',
     'seconds', 'encoder_parameters', 'parameters', 'paper']
    + [f'{key}{part}' for key in keys
       for part in ('', '_low', '_high', '_below_best')]
  )  # fmt: skip
  best = {key: best_of(rows, key) for key in keys}
  for row in everyone:
    facts = ['', '', 0, 0, 0, '', '']
    if row.runs:
      run = row.runs[0]
      seconds = np.mean([run.seconds for run in row.runs])
      facts = [*run.method, len(row.runs), run.images, f'{seconds:.1f}',
               *run.parameters]  # fmt: skip
    line = [row.name, row.letter, row.family, *facts, row.paper or '']
    for key in keys:
      own = row.scores.get(key)
      below = own and best[key].scores[key].beyond(own)
      line += own[:3] + (int(below),) if own else ('',) * 4
    writer.writerow(line)
  return out.getvalue()


def words(key: str) -> str:
  """'group_probe/top1' -> 'group probe'; top-5 says so."""
  return key.removesuffix('/top1').replace('_', ' ').replace('/', ' ')
