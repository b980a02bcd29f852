"""ImageNet in folders: train/ and val/, Kaggle's tree, or 22k's classes."""

import os
import re

from m3i_jax.prepare import folder, groundtruth, labels
from m3i_jax.prepare.folder import WNID, Picture, Tree
from m3i_jax.prepare.items import Layout, Options

_KAGGLE = os.path.join('ILSVRC', 'Data', 'CLS-LOC')
_OFFICIAL = re.compile(r'ILSVRC2012_val_\d{8}\.JPEG', re.IGNORECASE)


def home(root: str) -> str:
  """The folder of train/ and val/ in Kaggle's tree, or `root` itself."""
  for inside in (_KAGGLE, _KAGGLE.partition(os.sep)[2]):
    if os.path.isdir(os.path.join(root, inside)):
      return os.path.join(root, inside)
  return root


def recognise(root: str, tree: Tree, options: Options) -> Layout | None:
  """The layout if all labels are wnids, or pictures those of the val set.

  Raises:
    UserError: validation pictures without a folder have no labels elsewhere.
  """
  splits = folder.by_split(root, tree, options)
  names = {p.label for pictures in splits.values() for p in pictures} - {''}
  pictures = splits.get('validation', splits.get(options.split, []))
  official = bool(pictures) and all(
      _OFFICIAL.fullmatch(os.path.basename(picture.id)) for picture in pictures
  )
  if not all(map(WNID.fullmatch, names)) or not (names or official):
    return None
  if official:
    split = 'validation' if 'validation' in splits else options.split
    pictures = [p._replace(id=os.path.basename(p.id)) for p in pictures]
    if not any(picture.label for picture in pictures):
      pictures = _labelled(root, pictures, names)
    splits[split] = sorted(pictures, key=lambda picture: picture.id)
  names = {p.label for pictures in splits.values() for p in pictures} - {''}
  known = labels.Labels(tuple(sorted(names)))
  if options.classes:
    known = labels.from_file(options.classes)
  return folder.layout('imagenet', root, splits, known, tree, options)


def _labelled(
    root: str, pictures: list[Picture], classes: set[str]
) -> list[Picture]:
  places = [root, os.path.dirname(root)]
  if root.endswith(_KAGGLE.partition(os.sep)[2]):  # files lie further up, too
    places += [os.path.join(root, *['..'] * up) for up in (2, 3)]
  truth = groundtruth.find(places, [p.id for p in pictures], classes)
  return [p._replace(label=truth[p.id]) for p in pictures]
