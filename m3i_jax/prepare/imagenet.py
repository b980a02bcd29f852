"""ImageNet as it is found: official tars, extracted, and Kaggle's tree.

Every layout gives the same records: the sorted wnids are the classes, a part
of the training set is one class, and validation pictures go by their names.
"""

import dataclasses
import os
import re
from collections.abc import Iterator

from m3i_jax.errors import UserError
from m3i_jax.prepare import archive, conventions, groundtruth, labels
from m3i_jax.prepare.folder import WNID
from m3i_jax.prepare.items import Bad, Item, Layout, Options, Part
from m3i_jax.prepare.raw import PICTURE_BYTES, fingerprint, shown, too_large

# What image-net.org hands out, in bytes.
SIZES = {
    'ILSVRC2012_img_train.tar': 147_897_477_120,
    'ILSVRC2012_img_val.tar': 6_744_924_160,
}
_TRAIN, _VALIDATION = SIZES
_TEST = re.compile(r'ILSVRC2012_img_test.*\.tar')


@dataclasses.dataclass(frozen=True)
class ClassPart:
  """The pictures in the tar of one class, by name; see items.Part.

  Attributes:
    start, length: where it begins in the file, and its bytes there.
  """

  key: str
  path: str
  start: int
  length: int
  label: int
  size: int = 0

  @property
  def fingerprint(self) -> str:
    return fingerprint([self.path], self.start, self.length, self.label)

  def __iter__(self) -> Iterator[Item | Bad]:
    try:
      file = archive.open_tar(self.path, self.start, self.length)
    except archive.Broken as error:
      yield Bad(self.key, f'tar {error}')
      return
    with file:
      found, broken = _index(file)
      for member in found:
        id_ = f'{self.key}/{shown(member.name)}'
        yield _item(file, member, id_, self.label)
    for damage in broken:
      yield Bad(self.key, f'tar {damage}')


@dataclasses.dataclass(frozen=True)
class MembersPart:
  """Some pictures of one tar; see items.Part."""

  key: str
  path: str
  members: tuple[tuple[archive.Member, int], ...]  # with their labels

  @property
  def size(self) -> int:
    return len(self.members)

  @property
  def fingerprint(self) -> str:
    return fingerprint([self.path], self.members)

  def __iter__(self) -> Iterator[Item | Bad]:
    try:
      file = archive.open_tar(self.path)
    except archive.Broken as error:
      for member, _ in self.members:
        yield Bad(os.path.basename(member.name), f'tar {error}')
      return
    with file:
      for member, label in self.members:
        yield _item(file, member, os.path.basename(member.name), label)


def _index(file) -> tuple[list[archive.Member], list[archive.Broken]]:
  """The pictures and the unsafe members by name, and where the tar breaks."""
  found, broken = [], []
  for member in archive.survivors(file):
    if isinstance(member, archive.Broken):
      broken.append(member)
    elif member.kind != 'folder' and not conventions.is_hidden(
        os.path.basename(member.name)
    ):
      found.append(member)
  return _sorted(found), broken


def _sorted(members: list[archive.Member]) -> list[archive.Member]:
  return sorted(members, key=lambda member: (member.name, member.start))


def _item(file, member: archive.Member, id_: str, label: int) -> Item | Bad:
  if member.unsafe:
    return Bad(id_, f'unsafe member: {member.unsafe}')
  if not conventions.is_picture(member.name):
    return Bad(id_, f'no picture: {member.name}')
  if member.size > PICTURE_BYTES:
    return Bad(id_, str(too_large(member.name, member.size, PICTURE_BYTES)))
  try:
    return Item(id_, archive.read(file, member), label)
  except archive.Broken as error:
    return Bad(id_, f'tar {error}')


def recognise_tars(root: str, options: Options) -> Layout | None:
  """The layout of official tars: 1k's, 22k's folder of tars, a tar of tars.

  Raises:
    UserError: one of them is missing or too short.
  """
  names = sorted(os.listdir(root)) if os.path.isdir(root) else []
  single = not names and root.endswith('.tar')
  if single and _holds_classes(root):
    return _layout(root, _inner(root), {}, {}, options)
  if _TRAIN in names or _VALIDATION in names:
    return _official(root, names, options)
  tars = [name for name in names if name.endswith('.tar')]
  if tars and all(WNID.fullmatch(name[:-4]) for name in tars):
    places = {name[:-4]: os.path.join(root, name) for name in tars}
    found = [(wnid, path, 0, _whole(path)) for wnid, path in places.items()]
    return _layout(root, found, {}, {}, options)
  return None


def _official(root: str, names: list[str], options: Options) -> Layout:
  for name, size in SIZES.items():
    if name not in names:
      raise UserError(
          f'{os.path.join(root, name)} is missing ({size:,} bytes, from '
          'image-net.org): both tars must be in one folder'
      )
  train = _inner(os.path.join(root, _TRAIN))
  path = os.path.join(root, _VALIDATION)
  members = _members(path)
  truth = groundtruth.find(
      [root], [os.path.basename(m.name) for m in members], {w[0] for w in train}
  )
  rest = {'validation': (path, members)}
  for name in names:
    if _TEST.fullmatch(name):
      path = os.path.join(root, name)
      rest['test'] = (path, _members(path))
  return _layout(root, train, rest, truth, options)


def _holds_classes(path: str) -> bool:
  """Whether a tar's first file is one of a class."""
  try:
    with archive.open_tar(path) as file:
      first = (m for m in archive.members(file) if m.kind == 'file')
      name = os.path.basename(next(first).name)
  except (OSError, archive.Broken, StopIteration):
    return False
  return bool(re.fullmatch(rf'{WNID.pattern}\.tar', name))


def _inner(path: str) -> list[tuple[str, str, int, int]]:
  """(wnid, path, start, length) of the tars in a tar."""
  found = []
  for member in _members(path):
    name = os.path.basename(member.name)
    if WNID.fullmatch(name.removesuffix('.tar')) and not member.unsafe:
      found.append((name[:-4], path, member.start, member.size))
  if not found:
    raise UserError(f'{path} has no tars of classes (nXXXXXXXX.tar)')
  return sorted(found)


def _members(path: str) -> list[archive.Member]:
  """All members by name; UserError if the tar is too short."""
  try:
    with archive.open_tar(path) as file:
      members = [
          member
          for member in archive.members(file)
          if member.kind != 'folder'
      ]
  except (OSError, archive.Broken) as error:
    size = SIZES.get(os.path.basename(path))
    whole = f', the official one has {size:,}' if size else ''
    raise UserError(
        f'{path} is too short or damaged ({error}): it has '
        f'{os.path.getsize(path):,} bytes{whole}: copy it again'
    ) from error
  return _sorted(members)


def _whole(path: str) -> int:
  """A tar's size; UserError without the zeros that every tar ends with."""
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    file.seek(max(size - archive.BLOCK, 0))
    end = file.read()
  if size % archive.BLOCK or len(end) < archive.BLOCK or end.strip(b'\0'):
    raise UserError(
        f'{path} is too short: it has {size:,} bytes and no closing block: '
        'copy it again'
    )
  return size


def _layout(
    root: str,
    classes: list[tuple[str, str, int, int]],
    rest: dict[str, tuple[str, list[archive.Member]]],
    truth: dict[str, str],
    options: Options,
) -> Layout:
  """One part a class, and the other splits in parts of options.records."""
  wnids = {wnid for wnid, *_ in classes} | set(truth.values())
  known = labels.Labels(tuple(sorted(wnids)))
  if options.classes:
    known = labels.from_file(options.classes)
  unknown = sorted(wnids - set(known.names))
  if unknown:
    raise UserError(f'--classes={options.classes} lacks {unknown[0]} of {root}')
  train: list[Part] = [
      ClassPart(wnid, path, start, length, known.index(wnid))
      for wnid, path, start, length in classes
  ]
  splits = {'train' if rest else options.split: train}
  told = [f'{next(iter(splits))} {len(train):,} tars']
  for split, (path, members) in rest.items():
    labelled = [
        (member, known.index(truth.get(os.path.basename(member.name))))
        for member in members
    ]
    splits[split] = [
        MembersPart(
            f'{start // options.records:06d}',
            path,
            tuple(labelled[start : start + options.records]),
        )
        for start in range(0, len(labelled), options.records)
    ]
    told.append(f'{split} {len(members):,} pictures')
  return Layout(
      'imagenet',
      splits,
      known.names,
      False,
      f'ImageNet in tars {root}: {", ".join(told)}; '
      f'{conventions.counted(len(known.names), "label")}; no captions',
  )
