"""What reading gives and writing takes: items, in parts, in a layout."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Item:
  """A picture with what is known of it.

  Attributes:
    id: unique in its split, such as the path inside the source.
    image: its file's bytes.
    label: index into the layout's classes, -1 for none.
    captions: as found; () for none.
  """

  id: str
  image: bytes
  label: int = -1
  captions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bad:
  """A record that cannot be used.

  Attributes:
    id: as Item's.
    reason: one line; what stands before its first ':' is counted by.
  """

  id: str
  reason: str


class Part(Protocol):
  """A unit of work that becomes one shard; it can be pickled.

  Attributes:
    key: its name, unique in its split and the same in every run.
    size: how many items it has, 0 if that is not known before reading.
    fingerprint: of what it reads (paths, sizes, times of change): another one
      means that it must be read again.
  """

  key: str
  size: int
  fingerprint: str

  def __iter__(self) -> Iterator[Item | Bad]:
    """The records, in an order that never changes."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a source was found to be.

  Attributes:
    kind: such as 'folder' or 'webdataset'.
    splits: the parts of each split, in order.
    classes: names of the labels; () without labels.
    captions: whether there may be some.
    told: one line for the user.
  """

  kind: str
  splits: dict[str, list[Part]]
  classes: tuple[str, ...]
  captions: bool
  told: str


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of `prepare` that change what is written.

  Attributes:
    image, label, text, id: columns or keys to read; '' to look for the usual
      names. `text` may be several, with commas between.
    split: of a source that has only one.
    classes: a file of class names, one a line; '' to use those that are found.
    absolute: paths in tables, and links in folders, may lead out of the source.
    manual_dir: where TFDS finds what it cannot download.
    records: pictures in a shard, where the source does not say.
    short_side: pixels; larger pictures are shrunk to it. 0 leaves all as found.
    quality: of JPEG, where a picture is written anew.
    holdout: share that becomes the split 'test' of a source with one split.
    max_pixels: a larger picture is bad.
    max_bad: share of bad records in a split that is too much.
  """

  image: str = ''
  label: str = ''
  text: str = ''
  id: str = ''
  split: str = 'train'
  classes: str = ''
  absolute: bool = False
  manual_dir: str = ''
  records: int = 2048
  short_side: int = 0
  quality: int = 95
  holdout: float = 0.0
  max_pixels: int = 178_956_970
  max_bad: float = 0.05
