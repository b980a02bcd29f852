"""`--config.data=DATA`: a config that was written for other data, on these.

DATA is what config.data.source names, or a mixture: A*3,B*1 with weights, A,B
by the number of records.
"""

import re

from ml_collections import ConfigDict

from m3i_jax import build
from m3i_jax.data.describe import Described, describe
from m3i_jax.errors import UserError

_PARTS = ('image', 'label', 'text', 'tags', 'id')
_BANK = 50_000  # pictures that kNN remembers by default


def adopt(config: ConfigDict, wanted: str, given: set[str]) -> list[str]:
  """Changes what a config says of its data, in place.

  Fields are found by type and name. What these data cannot feed is left out:
  targets, evaluators; without any of the latter, kNN is added where there are
  labels and a second split.

  Args:
    wanted: what --config.data gave.
    given: the keys that other flags gave, 'data.label'; they stay.
  Returns:
    lines that say what was found and left out.
  Raises:
    UserError: no such data, or none of the targets can be trained on them.
  """
  parts = _parts(wanted)
  found = {name: describe(source) for name, (source, _) in parts.items()}
  if len(parts) == 1:
    [(source, _)], [one] = parts.values(), found.values()
    new = dict(source=source, split=_split(one)) | _fields(one)
  else:
    new = dict(source='', split='train') | {
      part: next((x for d in found.values() if (x := _fields(d)[part])), '')
      for part in _PARTS
    }
    new['sources'] = {
      name: _entry(source, weight, found[name])
      for name, (source, weight) in parts.items()
    }
  data = config.data
  data.sources = {}
  data.update({k: v for k, v in new.items() if f'data.{k}' not in given})
  told = [f'data: {name}: {_told(one)}' for name, one in found.items()]
  told += _leave_out_targets(config)
  prefixed = {
    (f'{name}/' if len(found) > 1 else '') + split: one
    for name, one in found.items()
    for split in one.splits
  }
  told += _refit_evaluators(config, prefixed, given)
  return [*told, f'targets: {", ".join(config.targets)}']


def _parts(wanted: str) -> dict[str, tuple[str, float | None]]:
  """{short name: (source, weight or None)} of what the flag says."""
  found: dict[str, tuple[str, float | None]] = {}
  for one in wanted.split(','):
    source, star, weight = one.strip().partition('*')
    if not source or (star and not re.fullmatch(r'\d+(\.\d*)?', weight)):
      raise UserError(
        f'--config.data={wanted}: say NAME, or NAME*WEIGHT,NAME*WEIGHT'
      )
    path = source.removeprefix('tfds:').partition(':')[0]
    # The last part of the path that is not the number of a version.
    words = [w for w in re.split('/', path) if re.search(r'[^\d.]', w)]
    short = re.sub(r'\W', '_', words[-1]) if words else 'data'
    while short in found:
      short += '_'
    found[short] = source, float(weight) if star else None
  return found


def _split(one: Described) -> str:
  return 'train' if 'train' in one.splits else next(iter(one.splits))


def _fields(one: Described) -> dict[str, str]:
  return {part: getattr(one.fields, part) for part in _PARTS}


def _entry(source: str, weight: float | None, one: Described) -> dict:
  entry = dict(source=source, split=_split(one)) | _fields(one)
  return entry if weight is None else entry | dict(weight=weight)


def _told(one: Described) -> str:
  fields = ', '.join(f'{p} {v!r}' for p, v in _fields(one).items() if v)
  splits = ', '.join(f'{name} {n:,}' for name, n in one.splits.items())
  return f'{splits} pictures; {fields}'


def _leave_out_targets(config: ConfigDict) -> list[str]:
  """Without labels or captions there are no targets of them."""
  told = []
  for part, word in (('label', 'labels'), ('text', 'captions')):
    if config.data[part]:
      continue
    for name in [n for n, row in config.targets.items() if row.of == part]:
      del config.targets[name]
      told.append(f'left out: config.targets.{name}, there are no {word}')
  if not config.targets:
    raise UserError(
      f'{"; ".join(told)}: no target remains, so choose a config that needs '
      'neither, such as configs/table1/mim_pixel.py'
    )
  rows = config.targets.values()
  if all(row.of != 'text' for row in rows):
    config.data.text = config.data.tags = ''  # no tokenizer for nothing
  if config.features and all(row.decoder != config.features for row in rows):
    told.append(
      f'config.features={config.features!r} is not trained: the mean token'
    )
    config.features = ''
  return told


def _refit_evaluators(
  config: ConfigDict, splits: dict[str, Described], given: set[str]
) -> list[str]:
  """Keeps the evaluators that these data have splits and fields for."""

  def has(split: str, field: str) -> bool:
    # A slice was chosen for a set of another size and order.
    names = split.split('+')
    return all(n in splits and field in splits[n].features for n in names)

  left, kept_by = [], {key.split('.')[1] for key in given if 'evals.' in key}
  for name, evaluator in build.evaluators(config).items():
    if name not in kept_by and not all(has(*x) for x in evaluator.reads()):
      del config.evals[name]
      left.append(name)
  told = [f'left out: config.evals {", ".join(left)}'] if left else []
  pair = _scored(splits)
  if not config.evals and pair:
    train, test, label = pair
    records = splits[train].splits[train.split('/')[-1]]
    some = f'[::{-(-records // _BANK)}]' if records > _BANK else ''
    config.evals.knn = dict(
      kind='knn', train=train + some, test=test, label=label
    )
    old = f'{", ".join(left)} replaced by ' if left else ''
    told = [f'config.evals: {old}knn {train}{some} -> {test}, by {label!r}']
  if config.panel.split not in ('', *splits) and 'panel.split' not in given:
    config.panel.split = pair[1] if pair else _panel(splits)
  return told


def _scored(splits: dict[str, Described]) -> tuple[str, str, str] | None:
  """(training split, held-out split, label field), of one source."""
  for train, one in splits.items():
    prefix = train.rpartition('/')[0] + '/' * ('/' in train)
    if one.fields.label and train == prefix + _split(one):
      for other in ('validation', 'test', *one.splits):
        if prefix + other in splits and prefix + other != train:
          return train, prefix + other, one.fields.label
  return None


def _panel(splits: dict[str, Described]) -> str:
  return next((s for s in splits if '/' in s), '')
