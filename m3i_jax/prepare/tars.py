"""Tars of webdataset and img2dataset: finding them, and what they hold."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from m3i_jax.errors import UserError
from m3i_jax.prepare import archive, conventions, labels, raw, samples
from m3i_jax.prepare.items import Bad, Item, Layout, Options

SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_BRACES = re.compile(r'\{(\d+)\.\.(\d+)\}')


@dataclasses.dataclass(frozen=True)
class TarPart:
  """The samples of one tar; see items.Part. `key` begins their ids."""

  key: str
  path: str
  size: int
  keys: samples.Keys
  known: labels.Labels

  @property
  def fingerprint(self) -> str:
    return raw.fingerprint([self.path], self.keys, self.known.digest)

  def __iter__(self) -> Iterator[Item | Bad]:
    for sample in read(self.path, self.keys.limit):
      if isinstance(sample, Bad):
        id_ = f'{self.key}/{sample.id}'.rstrip('/')
        yield Bad(id_, sample.reason)
        continue
      id_ = f'{self.key}/{sample.key}'
      try:
        yield samples.item(sample, id_, self.keys, self.known)
      except raw.Unusable as error:
        yield Bad(id_, str(error))


def read(
    path: str, limit: Callable[[str], int]
) -> Iterator[samples.Sample | Bad]:
  """samples.read of a tar by its path."""
  try:
    file = archive.open_tar(path)
  except archive.Broken as error:
    yield Bad('', f'tar {error}')
    return
  with file:
    yield from samples.read(file, limit)


def is_tar(name: str) -> bool:
  """By its suffix."""
  return name.lower().endswith(SUFFIXES)


def expand(pattern: str) -> list[str] | None:
  """The tars of `x-{000..042}.tar`, None if it is no such range.

  Raises:
    UserError: one of them does not exist.
  """
  if not _BRACES.search(pattern):
    return None
  paths = ['']
  place = 0
  for match in _BRACES.finditer(pattern):
    first, last = match.groups()
    width = len(first) if first.startswith('0') else 0
    if not 0 <= int(last) - int(first) < 10_000_000:
      raise UserError(f'{pattern}: the range {match[0]} is empty or too long')
    between = pattern[place : match.start()]
    paths = [
        f'{path}{between}{number:0{width}d}'
        for path in paths
        for number in range(int(first), int(last) + 1)
    ]
    place = match.end()
  paths = [os.path.expanduser(path + pattern[place:]) for path in paths]
  missing = [path for path in paths if not os.path.isfile(path)]
  if missing:
    raise UserError(
        f'{pattern}: {len(missing):,} of {len(paths):,} tars do not exist, '
        f'the first is {missing[0]}'
    )
  return paths


def recognise(paths: list[str], root: str, options: Options) -> Layout:
  """The layout of tars; those of a folder may be of several splits.

  Args:
    paths: in order.
    root: the folder that they are in, or below.
    options: `image`, `label`, `text`, `classes` and `split` are used.

  Raises:
    UserError: the first records have no picture, or not what was asked for.
  """
  names = {path: _name(path, root) for path in paths}
  if len(set(names.values())) < len(names):  # a.tar beside a.tar.gz
    names = {path: os.path.relpath(path, root) for path in paths}
  splits = conventions.splits_by_name(names, options.split)
  keys, ignored = _probe(paths, root, options)
  counts: dict[str, int] = {}
  known = labels.Labels()
  if keys.label and options.classes:
    known = labels.from_file(options.classes)
  elif keys.label:
    known, counts = _survey(paths, keys, root)
  plan = (keys, known)
  parts = {
      split: [
          TarPart(names[path], path, counts.get(path) or _told(path), *plan)
          for path in inside
      ]
      for split, inside in conventions.split_order(splits).items()
  }
  told = ', '.join(f'{split} {len(part):,}' for split, part in parts.items())
  captions = f'captions from {", ".join(keys.texts)}' if keys.texts else ''
  classes = conventions.counted(len(known.names), 'label')
  return Layout(
      'webdataset',
      parts,
      known.names,
      bool(keys.texts),
      f'webdataset {root}: tars {told}; '
      f'{classes}{f" from {keys.label}" if keys.label else ""}; '
      f'{captions or "no captions"}'
      + (f'; members left alone: {", ".join(ignored[:10])}' if ignored else ''),
  )


def _name(path: str, root: str) -> str:
  name = os.path.relpath(path, root).replace(os.sep, '/')
  return raw.shown(re.sub(r'(?i)\.(tar|tar\.gz|tgz)$', '', name))


def _told(path: str) -> int:
  """How many pictures img2dataset says that it has put into a tar."""
  with contextlib.suppress(OSError, ValueError, RecursionError):
    with open(re.sub(r'\.tar$', '', path) + '_stats.json', 'rb') as file:
      count = json.loads(file.read(raw.TEXT_BYTES))['successes']
    return count if isinstance(count, int) and count >= 0 else 0
  return 0


def _probe(
    paths: list[str], root: str, options: Options
) -> tuple[samples.Keys, list[str]]:
  """What the first records have: keys to read, and extensions left alone."""
  extensions: set[str] = set()
  values: dict[str, Any] = {}
  wanted = samples.Keys(
      options.image, conventions.listed(options.text), options.label
  )
  reason, number, pictures = 'there are no members', 0, 0
  for sample in _first(paths, wanted):
    number += 1
    if isinstance(sample, Bad):
      reason = sample.reason
      continue
    extensions.update(sample.fields)
    with contextlib.suppress(raw.Unusable):
      for key, value in samples.Fields(sample, sample.key).json.items():
        if value is not None:
          values.setdefault(key, value)
    try:
      samples.image_of(sample, wanted)
      pictures += 1
    except raw.Unusable as error:
      reason = str(error)
  keys = [f'json:{key}' for key in sorted(values)]
  seen = ', '.join([*sorted(extensions), *keys])[:300]
  if not pictures:
    picture = options.image or ', '.join(conventions.PICTURES[:6]) + ' ...'
    raise UserError(
        f'no picture in the first {number:,} records of {root}: members are '
        f'{seen or "none"}, wanted is {picture} (--image names another): '
        f'{reason[:200]}'
    )
  keys = _keys(extensions, values, seen, wanted)
  ignored = [
      name or 'without extension'
      for name in sorted(extensions)
      if not keys.limit(name)
  ]
  return keys, ignored


def _first(
    paths: list[str], keys: samples.Keys
) -> Iterator[samples.Sample | Bad]:
  """The first records, captions and JSON only."""
  left = conventions.PROBE
  for path in paths:
    for sample in read(path, keys.small):
      yield sample
      left -= 1
      if not left:
        return


def _keys(
    extensions: set[str],
    values: dict[str, Any],
    seen: str,
    wanted: samples.Keys,
) -> samples.Keys:
  """What was asked for, or else the usual names among those seen."""
  for key in (wanted.label, *wanted.texts):
    if key and key not in extensions and key not in values:
      raise UserError(f'no {key!r} in the first records: they have {seen}')
  texts = [key for key in conventions.CAPTIONS if key in extensions]
  texts += [
      key for key in conventions.TEXT if isinstance(values.get(key), str | list)
  ]
  names = ['cls'] if 'cls' in extensions else []
  names += [
      key for key in conventions.LABEL if isinstance(values.get(key), str | int)
  ]
  return samples.Keys(
      wanted.image,
      wanted.texts or tuple(texts[:1]),
      wanted.label or (names[0] if names else ''),
  )


def _survey(
    paths: list[str], keys: samples.Keys, root: str
) -> tuple[labels.Labels, dict[str, int]]:
  """The classes, and the samples in each tar; reads labels and headers."""
  names: set[str] = set()
  counts: dict[str, int] = {}
  for path in tqdm(paths, 'labels', unit='tar', disable=None, leave=False):
    for sample in read(path, keys.small):
      counts[path] = counts.get(path, 0) + 1
      if isinstance(sample, samples.Sample):
        with contextlib.suppress(raw.Unusable):
          label = samples.Fields(sample, '').label(keys.label)
          names.add(labels.tidy(label))
    if len(names) > labels.MOST:
      break
  if keys.label == 'cls':  # which holds numbers, so that others are mistakes
    names = {name for name in names if labels.is_number(name)} or names
  return labels.found(names, root), counts
