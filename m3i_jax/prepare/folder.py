"""Pictures in folders: a sub-folder is the label, NAME.txt the captions."""

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from m3i_jax.errors import UserError
from m3i_jax.prepare import conventions, deeper, labels, raw
from m3i_jax.prepare.items import Bad, Item, Layout, Options

_NAMED = 5  # kinds of files that are left alone
WNID = re.compile(r'n\d{8}')


class Picture(NamedTuple):
  """A file: its path in the source, its id, label and the file of captions."""

  path: str
  id: str
  label: str | int = ''  # a name, then an index
  captions: str = ''
  reason: str = ''  # why it is bad, if that is known without reading it


@dataclasses.dataclass(frozen=True)
class FolderPart:
  """Some pictures of a folder; see items.Part."""

  key: str
  root: str
  pictures: tuple[Picture, ...]

  @property
  def size(self) -> int:
    return len(self.pictures)

  @property
  def fingerprint(self) -> str:
    """Of the sizes and times of its files."""
    paths = (
        os.path.join(self.root, name)
        for picture in self.pictures
        for name in (picture.path, picture.captions)
        if name
    )
    named = [picture[1:] for picture in self.pictures]
    return raw.fingerprint(paths, named)

  def __iter__(self) -> Iterator[Item | Bad]:
    for picture in self.pictures:
      try:
        yield self._read(picture)
      except raw.Unusable as error:
        yield Bad(picture.id, str(error))

  def _read(self, picture: Picture) -> Item:
    if picture.reason:
      raise raw.Unusable(picture.reason)
    image = raw.read_file(os.path.join(self.root, picture.path))
    captions = ()
    if picture.captions:
      text = os.path.join(self.root, picture.captions)
      captions = raw.lines(
          raw.read_file(text, raw.TEXT_BYTES), picture.captions
      )
    return Item(picture.id, image, picture.label, captions)


@dataclasses.dataclass
class Tree:
  """What lies below a folder.

  Attributes:
    pictures: path -> path of its captions or '', sorted by path.
    others: suffix -> the other files with it, '' for those without.
    links: those left out, as they lead out of the source or to a folder.
  """

  pictures: dict[str, str]
  others: dict[str, list[str]]
  links: list[str] = dataclasses.field(default_factory=list)


def walk(root: str, follow: bool = False) -> Tree:
  """Finds pictures and captions; opens none of them.

  Args:
    root: the folder.
    follow: links may lead out of it, and to folders.
  """
  tree = Tree({}, {})
  home = os.path.realpath(root)
  waiting = [('', (home,))]  # with the true places of the folders above
  while waiting:
    inside, above = waiting.pop()
    names, captions = [], {}
    for entry in _entries(os.path.join(root, inside)):
      path = os.path.join(inside, entry.name)
      place = os.path.realpath(entry.path) if entry.is_symlink() else ''
      if place and not _is_followed(place, home, above, follow):
        tree.links.append(path)
      elif entry.is_dir():
        waiting.append((path, (*above, place) if place else above))
      elif not entry.is_file():
        continue  # a pipe or a device
      elif conventions.is_picture(entry.name):
        names.append(path)
      elif entry.name.lower().endswith('.txt'):
        captions[path[:-4]] = path
      else:
        suffix = os.path.splitext(entry.name)[1].lower()
        tree.others.setdefault(suffix, []).append(path)
    for path in names:
      tree.pictures[path] = captions.get(os.path.splitext(path)[0], '')
    alone = captions.keys() - {os.path.splitext(path)[0] for path in names}
    if alone:
      tree.others.setdefault('.txt', []).extend(captions[x] for x in alone)
  tree.pictures = dict(sorted(tree.pictures.items()))
  for paths in tree.others.values():
    paths.sort()
  return tree


def _entries(path: str) -> list[os.DirEntry]:
  with os.scandir(path) as found:
    return [entry for entry in found if not conventions.is_hidden(entry.name)]


def _is_followed(
    place: str, home: str, above: tuple[str, ...], follow: bool
) -> bool:
  """Whether a link's target is read: a file of the source, or no loop."""
  if follow:
    return os.path.exists(place) and place not in above
  return os.path.isfile(place) and place.startswith(home + os.sep)


def recognise(root: str, tree: Tree, options: Options) -> Layout:
  """The layout of a folder that has pictures.

  Raises:
    UserError: sub-folders may be splits or labels, or --classes is wrong.
  """
  splits = by_split(root, tree, options)
  names = {p.label for pictures in splits.values() for p in pictures} - {''}
  known = labels.Labels(tuple(sorted(names)))
  if options.classes:
    known = labels.from_file(options.classes)
  return layout('folder', root, splits, known, tree, options)


def by_split(
    root: str, tree: Tree, options: Options
) -> dict[str, list[Picture]]:
  """Split -> its pictures, labels still by name; UserError as `recognise`."""
  for link in tree.links:
    if link.lower() in conventions.SPLITS:
      raise UserError(
          f'{os.path.join(root, link)} is a link to another folder: it is '
          'followed with --absolute'
      )
  tops = {path.split(os.sep)[0] for path in tree.pictures if os.sep in path}
  named = {top for top in tops if top.lower() in conventions.SPLITS}
  others = sorted(tops - named)
  loose = any(os.sep not in path for path in tree.pictures)
  if not named or (others and len(named) == 1):
    # A train among cars and ships is a label.
    deeper.refuse(root, {os.path.dirname(path) for path in tree.pictures})
    return {options.split: _pictures('', tree.pictures)}
  if others or loose:
    what = f'the folder {others[0]!r}' if others else 'pictures'
    raise UserError(
        f'{root}: {", ".join(sorted(named))} look like splits, but {what} '
        'beside them does not: name the folder of one split, with --split'
    )
  splits = {}
  for top in sorted(named):
    split = conventions.SPLITS[top.lower()]
    if split in splits:
      raise UserError(f'{root} has more than one folder for {split!r}: {top}')
    inside = {
        path: captions
        for path, captions in tree.pictures.items()
        if path.startswith(top + os.sep)
    }
    splits[split] = _pictures(top, inside)
  deeper.refuse(
      root,
      {
          os.path.dirname(path).partition(os.sep)[2]
          for path in tree.pictures
      },
  )
  return splits


def _pictures(top: str, found: dict[str, str]) -> list[Picture]:
  """Pictures with their id and label: what follows `top` in their paths."""
  pictures = []
  for path, captions in found.items():
    id_ = path[len(top) + 1 :] if top else path
    if raw.is_utf8(path):
      label = labels.tidy(os.path.dirname(id_).replace(os.sep, '/'))
      pictures.append(Picture(path, id_, label, captions))
    else:
      reason = 'name of a file: it is no UTF-8'
      pictures.append(Picture(path, raw.shown(id_), '', '', reason))
  return pictures


def layout(
    kind: str,
    root: str,
    splits: dict[str, list[Picture]],
    known: labels.Labels,
    tree: Tree,
    options: Options,
) -> Layout:
  """Parts of at most options.records pictures; one a class for ImageNet's."""
  parts, told = {}, []
  captioned = 0
  for split, pictures in conventions.split_order(splits).items():
    captioned += sum(bool(picture.captions) for picture in pictures)
    groups = _groups(pictures, options.records)
    parts[split] = [
        FolderPart(key, root, tuple(_indexed(group, known)))
        for key, group in groups
    ]
    told.append(f'{split} {len(pictures):,}')
  return Layout(
      kind,
      parts,
      known.names,
      captioned > 0,
      f'{kind} {root}: pictures {", ".join(told)}; '
      f'{conventions.counted(len(known.names), "label")}'
      + (f' ({known.names[0]!r} alone)' if len(known.names) == 1 else '')
      + f'; {conventions.counted(captioned, "file")} of captions'
      + _left_alone(tree, kind),
  )


def _left_alone(tree: Tree, kind: str) -> str:
  """The rest of what is told: what lies there and is not read."""
  links = conventions.counted(len(tree.links), 'link')
  told = f'; {links} left out (--absolute follows them)' if tree.links else ''
  files = [
      paths[0] if len(paths) == 1 else f'{len(paths):,} {suffix or "others"}'
      for suffix, paths in sorted(tree.others.items())
  ]
  if files and kind == 'folder':  # ImageNet's are known, some are read
    more = ', ...' if len(files) > _NAMED else ''
    told += f'; files left alone: {", ".join(files[:_NAMED])}{more}'
  return told


def _groups(
    pictures: list[Picture], most: int
) -> list[tuple[str, list[Picture]]]:
  if all(WNID.fullmatch(str(p.label)) for p in pictures) and any(
      os.path.dirname(p.id) for p in pictures
  ):
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
      groups.setdefault(str(picture.label), []).append(picture)
    return sorted(groups.items())
  return [
      (f'{start // most:06d}', pictures[start : start + most])
      for start in range(0, len(pictures), most)
  ]


def _indexed(
    pictures: list[Picture], known: labels.Labels
) -> Iterator[Picture]:
  """Pictures with the indices of their labels."""
  for picture in pictures:
    try:
      yield picture._replace(label=known.index(picture.label))
    except raw.Unusable as error:
      yield picture._replace(label=-1, reason=str(error))
