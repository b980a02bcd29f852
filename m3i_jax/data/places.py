"""The directory that a data set's name stands for."""

import itertools
import os
import re

from etils import epath

from m3i_jax.errors import UserError

UNFINISHED = '.unfinished'  # what a stopped `prepare` has left
EMOJI64 = epath.Path(__file__).parent / 'emoji64'
_VERSION = re.compile(r'\d+\.\d+\.\d+')


def tfds_home() -> epath.Path:
  """Where TFDS keeps what it has built."""
  home = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  return epath.Path(home).expanduser()


def directory(name: str) -> epath.Path:
  """The versioned TFDS directory that a name stands for."""
  if name.startswith('tfds:'):
    path, _, version = name.removeprefix('tfds:').partition(':')
    place = tfds_home() / path / version
    advice = (
        f'run `tfds build {path} --file_format=array_record`, or let '
        'TFDS_DATA_DIR name the directory that has it'
    )
  else:
    bundled = name in ('emoji', 'emoji64')
    place = EMOJI64 if bundled else epath.Path(name).expanduser()
    advice = (
        'name a directory that m3i_jax.prepare has written, '
        "'emoji', 'synthetic' or 'tfds:NAME'"
    )
  if (place / UNFINISHED).exists():
    raise UserError(
        f'{place} is not complete: m3i_jax.prepare was stopped, or is at work; '
        'run the same command again'
    )
  found = _newest_version(place)
  if found is None:
    if _is_raw(place):
      advice = (
          f'python -m m3i_jax.prepare {place} --out=DIR makes one of it, then '
          '--config.data=DIR'
      )
    raise UserError(f'no prepared data set {name!r} at {place}: {advice}')
  return found


def _is_raw(place: epath.Path) -> bool:
  """Whether there seems to be what `prepare` reads."""
  from m3i_jax.prepare import conventions, tables, tars  # if needed only

  if not place.is_dir():
    return place.exists()
  beginning = itertools.islice(place.iterdir(), 1000)
  return any(
      conventions.is_picture(path.name)
      or tars.is_tar(path.name)
      or path.name.lower().endswith(tables.SUFFIXES)
      or path.is_dir()
      for path in beginning
  )


def _newest_version(place: epath.Path) -> epath.Path | None:
  if (place / 'dataset_info.json').exists():
    return place
  if not place.is_dir():
    return None
  versions = [
      path
      for path in place.iterdir()
      if _VERSION.fullmatch(path.name) and (path / 'dataset_info.json').exists()
  ]

  def numbers(path: epath.Path) -> list[int]:
    return [int(number) for number in path.name.split('.')]

  return max(versions, key=numbers, default=None)


def builder(directory: epath.Path):
  """TFDS's view of a directory; UserError if it cannot read it."""
  import tensorflow_datasets as tfds  # seconds to import: only if needed

  try:
    return tfds.builder_from_directory(directory)
  except Exception as error:  # of a damaged description it raises many kinds
    raise UserError(
        f'{directory}: TFDS cannot read its description '
        f'({type(error).__name__}: {error}): prepare it again'
    ) from error
