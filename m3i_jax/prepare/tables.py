"""Tables of pictures: which columns are what, and parts of their rows."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from m3i_jax.errors import UserError
from m3i_jax.prepare import conventions, labels, metadata, raw, rows
from m3i_jax.prepare.columns import Plan, Values
from m3i_jax.prepare.items import Bad, Item, Layout, Options
from m3i_jax.prepare.parquet import Parquet

SUFFIXES = ('.csv', '.tsv', '.jsonl', '.ndjson', '.parquet')
Table = rows.Csv | rows.Jsonl | Parquet
_MOST_SPLITS = 20


@dataclasses.dataclass(frozen=True)
class TablePart:
  """Rows of one split, from a mark on; see items.Part. `name` is the file's."""

  name: str
  table: Table
  mark: rows.Mark
  size: int
  split: str
  plan: Plan

  @property
  def key(self) -> str:
    return f'{self.name}#{self.mark.number}'

  @property
  def fingerprint(self) -> str:
    """Of the table; pictures that it names are not looked at."""
    rest = (self.mark, self.size, self.split, self.plan)
    return raw.fingerprint([self.table.path], rest, self.plan.known.digest)

  def knowing(self, known: labels.Labels) -> 'TablePart':
    """The same with its classes."""
    plan = dataclasses.replace(self.plan, known=known)
    return dataclasses.replace(self, plan=plan)

  def __iter__(self) -> Iterator[Item | Bad]:
    left, number = self.size, self.mark.number
    reason = 'row of a table: it is not there any more'
    try:
      for mark, values in self.table.rows(self.mark, self.plan.columns):
        number = mark.number + 1
        if self.plan.split_of(values) != self.split:
          continue
        yield self._record(values, f'{self.name}#{mark.number}')
        left -= 1
        if not left:
          return
    except (OSError, UserError) as error:
      reason = f'table cannot be read: {_cause(error)}'
    for lost in range(left):
      yield Bad(f'{self.name}#{number + lost}', reason)

  def _record(self, values: Values, place: str) -> Item | Bad:
    try:
      return self.plan.item(values, place)
    except raw.Unusable as error:
      return Bad(raw.shown(self.plan.name(values, place)), str(error))


def _cause(error: Exception) -> str:
  """One line, without the folder that the table is in."""
  error = error.__cause__ or error
  number = getattr(error, 'errno', None)
  return os.strerror(number) if number else str(error).splitlines()[0]


def open_table(path: str) -> Table:
  """A table by its suffix."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix == '.parquet':
    return Parquet(path)
  json = suffix in ('.jsonl', '.ndjson')
  return rows.Jsonl(path) if json else rows.Csv(path)


def recognise(
    paths: dict[str, list[str]], root: str, options: Options
) -> Layout:
  """The layout of tables.

  Args:
    paths: the files of each split; a column may divide them further.
    root: the folder that they are in, or below.
    options: all that name columns, `classes`, `absolute` and `records`.

  Raises:
    UserError: a column is missing, or none of the first rows can be used.
  """
  paths, pictures = metadata.gather(paths, root, SUFFIXES, options)
  tables = {
      split: [open_table(path) for path in sorted(inside)]
      for split, inside in paths.items()
  }
  every = [table for inside in tables.values() for table in inside]
  plan = _plan(every, options)
  _probe(every[0], plan)
  fixed = _fixed(every[0], plan, options)
  parts: dict[str, list[TablePart]] = {}
  names: set[str] = set()
  for split, inside in tables.items():
    plan = dataclasses.replace(plan, usual=split)
    for table in inside:
      name = os.path.relpath(table.path, root).replace(os.sep, '/')
      whole = TablePart(
          name, table, rows.Mark(1, 0), 0, split, _at(plan, table)
      )
      for part in _survey(whole, options.records, names, fixed is not None):
        parts.setdefault(part.split, []).append(part)
  known = labels.found(names, every[0].path) if fixed is None else fixed
  parts = {
      split: [part.knowing(known) for part in inside]
      for split, inside in conventions.split_order(parts).items()
  }
  if not parts:
    raise UserError(f'{every[0].path} has no rows')
  where = every[0].path if len(every) == 1 else root
  return Layout(
      'table',
      parts,
      known.names,
      bool(plan.texts),
      f'table {where}: {_told(parts, plan, known)}'
      + metadata.unnamed(pictures, every, plan.image),
  )


def _told(
    parts: dict[str, list[TablePart]], plan: Plan, known: labels.Labels
) -> str:
  counts = ', '.join(
      f'{split} {sum(part.size for part in inside):,}'
      for split, inside in parts.items()
  )
  label = conventions.counted(len(known.names), 'label')
  return (
      f'rows {counts}; pictures from {plan.image!r}; '
      f'{label}{f" from {plan.label!r}" if plan.label else ""}; '
      + (f'captions from {", ".join(map(repr, plan.texts))}'
         if plan.texts else 'no captions')
  )


def _plan(every: Sequence[Table], options: Options) -> Plan:
  """The columns: those asked for, or the usual names among those there."""
  columns = every[0].columns
  lower = {column.lower(): column for column in reversed(columns)}
  there = f'it has {", ".join(columns)[:300]}'

  def choose(asked: str, usual: tuple[str, ...], flag: str) -> str:
    if asked and asked not in columns:
      raise UserError(
          f'{every[0].path} has no column {asked!r} (--{flag}): {there}'
      )
    return asked or next((lower[n] for n in usual if n in lower), '')

  image = choose(options.image, conventions.IMAGE, 'image')
  if not image:
    urls = choose('', conventions.URL, '')
    raise UserError(
        f'{every[0].path} has no column of pictures: {there}; wanted is one '
        f'of {", ".join(conventions.IMAGE)}, or --image=COLUMN'
        + (f'; {_download(urls)}' if urls else '')
    )
  listed = conventions.listed(options.text)
  texts = [choose(name, (), 'text') for name in listed]
  plan = Plan(
      os.path.dirname(every[0].path) or '.',
      image,
      choose(options.label, conventions.LABEL, 'label'),
      tuple(texts or filter(None, [choose('', conventions.TEXT, 'text')])),
      choose(options.id, conventions.ID, 'id'),
      choose('', conventions.SPLIT, ''),
      absolute=options.absolute,
      usual=options.split,
  )
  for table in every:
    for name in plan.columns:
      if table.columns.count(name) > 1:
        raise UserError(
            f'{table.path} has more than one column {name!r}: rename them'
        )
    missing = set(plan.columns) - set(table.columns)
    if missing and not isinstance(table, rows.Jsonl):
      raise UserError(
          f'{table.path} has no column {min(missing)!r}, '
          f'as {every[0].path} has'
      )
  return plan


def _download(column: str) -> str:
  return (
      f'{column!r} has addresses of the network: download them with '
      'img2dataset (--output_format=webdataset), then prepare its tars'
  )


def _probe(table: Table, plan: Plan):
  """UserError if none of the first rows has a picture."""
  first, number = '', 0
  for mark, values in table.rows(columns=plan.columns):
    number = mark.number
    try:
      if isinstance(values, raw.Unusable):
        raise values
      path, _ = plan.picture(values)
      if not path or os.path.exists(path):
        return
      raise raw.Unusable(f'missing file: {path}')
    except raw.Unusable as error:
      first = first or str(error)
    if number >= conventions.PROBE:
      break
  if first.startswith('address'):
    raise UserError(f'{table.path}: {_download(plan.image)}')
  if first:
    raise UserError(
        f'none of the first {number:,} rows of {table.path} can be used '
        f'(pictures from column {plan.image!r}); the first one: {first}'
    )


def _fixed(
    table: Table, plan: Plan, options: Options
) -> labels.Labels | None:
  """The classes, if they are known without looking at the labels."""
  if not plan.label:
    return labels.Labels()
  if options.classes:
    return labels.from_file(options.classes)
  if isinstance(table, Parquet) and (names := table.names(plan.label)):
    return labels.Labels(names, numbered=True)
  return None


def _at(plan: Plan, table: Table) -> Plan:
  """Paths begin at the folder of their table."""
  return dataclasses.replace(plan, root=os.path.dirname(table.path) or '.')


def _survey(
    whole: TablePart, most: int, names: set[str], fixed: bool
) -> list[TablePart]:
  """Parts of `most` rows of one split; adds the labels to `names`."""
  table, plan = whole.table, whole.plan
  parts: dict[str, list[list]] = {}
  if isinstance(table, Parquet) and fixed and not plan.split:
    count = table.count
    parts[plan.usual] = [
        [rows.Mark(start + 1, 0), min(most, count - start)]
        for start in range(0, count, most)
    ]
  else:
    for mark, values in _progress(table, plan, whole.name):
      split = plan.split_of(values)
      inside = parts.setdefault(split, [])
      if not inside or inside[-1][1] == most:
        inside.append([mark, 0])
      inside[-1][1] += 1
      if not fixed and isinstance(values, dict):
        _collect(values.get(plan.label), names, table.path)
      if len(parts) > _MOST_SPLITS:
        raise UserError(
            f'{table.path}: column {plan.split!r} names more than '
            f'{_MOST_SPLITS} splits, such as {split!r}'
        )
  return [
      dataclasses.replace(whole, mark=mark, size=count, split=split)
      for split, inside in parts.items()
      for mark, count in inside
  ]


def _progress(table: Table, plan: Plan, name: str) -> Iterator[rows.Row]:
  """All rows, with a bar; no more of their columns than a first pass needs."""
  needed = tuple(filter(None, (plan.label, plan.split)))
  found = table.rows(columns=needed)
  return tqdm(found, name, unit=' rows', disable=None, leave=False)


def _collect(value: Any, names: set[str], path: str):
  try:
    names.add(labels.tidy(value))
  except raw.Unusable:
    return  # its own part says so
  if len(names) > labels.MOST:
    labels.found(names, path)
