"""A web crawl: tars with captions, some broken. All good records arrive."""

import json
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from m3i_jax.prepare import cli
from m3i_jax.prepare.items import Options
from tests.data import bad_pictures
from tests.prepare import making, writing

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / 'm3i_jax' / 'data' / 'emoji64' / '1.0.0'
PER_TAR = 300
BROKEN = bad_pictures.broken()


def crawl() -> tuple[list[making.Members], dict[str, tuple], dict[str, str]]:
  """Tars of the bundled pictures; each tenth record is broken in some way.

  Returns:
    the tars' members; of good records {id: (image, captions)}; of bad ones
    {id: the start of the reason}.
  """
  source = tfds.builder_from_directory(EMOJI).as_data_source(
    'train', decoders={'image': tfds.decode.SkipDecoding()}
  )
  breaks, tars, good, bad = list(BROKEN.values()), [], {}, {}
  for i, record in enumerate(source):
    if i % PER_TAR == 0:
      tars.append({})
    key = f'{i:09d}'
    id = f'{len(tars) - 1:05d}/{key}'
    caption, image = record['caption'], record['image']
    if i % 10 == 3:
      image, bad[id] = breaks[i // 10 % len(breaks)]
    else:
      good[id] = (image, (caption.decode(),))
    told = {'url': 'https://example.org', 'caption': caption.decode()}
    tars[-1] |= {
      f'{key}.webp': image,
      f'{key}.txt': caption,
      f'{key}.json': json.dumps(told).encode(),
    }
  return tars, good, bad


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """The crawl's folder, and what is in it; its last tar is cut short."""
  folder = tmp_path_factory.mktemp('crawl')
  tars, good, bad = crawl()
  for i, members in enumerate(tars):
    data = making.tar(members)
    if i == len(tars) - 1:
      keys = sorted({name.partition('.')[0] for name in members})
      last = f'{i:05d}/{keys[-1]}'
      at = data.rindex(f'{keys[-1]}.webp'.encode())
      data = data[: at + 512 + 100]  # in the last picture
      assert good.pop(last, None)
    (folder / f'{i:05d}.tar').write_bytes(data)
  return folder, good, bad


@pytest.fixture(scope='module')
def prepared(written, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'set'
  layout = cli.recognise(str(written[0]), Options())
  with warnings.catch_warnings(action='ignore'):  # Pillow's, of some
    writing.write(layout, out)
  return out


def test_every_good_record_arrives(written, prepared):
  _, good, _ = written
  source = tfds.builder_from_directory(prepared).as_data_source(
    'train', decoders={'image': tfds.decode.SkipDecoding()}
  )
  arrived = {
    record['id'].decode(): (
      record['image'], tuple(text.decode() for text in record['text'])
    )
    for record in source
  }  # fmt: skip
  assert len(source) == len(good)
  assert arrived == good


def test_every_bad_one_is_listed_with_its_reason(written, prepared):
  _, _, bad = written
  lines = (prepared / 'quarantine.jsonl').read_text().splitlines()
  listed = {line['id']: line['reason'] for line in map(json.loads, lines)}
  cut = {id: listed.pop(id) for id in set(listed) - set(bad)}
  assert set(listed) == set(bad)
  for id, reason in bad.items():
    assert listed[id].startswith(reason)
  assert len(cut) == 1  # the end of the last tar
  manifest = json.loads((prepared / 'manifest.json').read_text())
  counted = manifest['splits']['train']['bad']
  reasons = [json.loads(line)['reason'] for line in lines]
  assert counted == Counter(reason.partition(':')[0] for reason in reasons)


def test_it_is_too_much_for_the_usual_share(written, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'm3i_jax.prepare', written[0],
     f'--out={tmp_path / "set"}'],
    capture_output=True, text=True, cwd=ROOT, timeout=300,
  )  # fmt: skip
  assert done.returncode == 1
  error = done.stderr.splitlines()[-1]
  assert "records of split 'train' are bad (" in error
  assert error.endswith('--max_bad=0.05 is the share that is let pass')
  assert not (tmp_path / 'set' / 'dataset_info.json').exists()
