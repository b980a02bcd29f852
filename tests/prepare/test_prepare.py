"""The command: whatever stops it, the same line ends with the same bytes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tensorflow_datasets as tfds

from m3i_jax.errors import UserError
from m3i_jax.prepare import finish, writer
from m3i_jax.prepare.items import Bad, Item
from m3i_jax.prepare.progress import TooManyBad
from tests.prepare import parts, writing


def start(name: str, out, *flags: str, delay: float = 0) -> subprocess.Popen:
  line = [sys.executable, '-m', 'tests.prepare.writing', name, f'--out={out}']
  return subprocess.Popen(
    [*line, '--max_bad=0.5', *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'M3I_DRAWN_DELAY': str(delay)},
    start_new_session=True,  # a signal to its group is not for us
  )


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
  """Exit code, standard output, and the last line of standard error."""
  out, err = process.communicate(timeout=120)
  return process.returncode, out, (err.strip().splitlines() or [''])[-1]


def stopped(out, how) -> subprocess.Popen:
  """The command, stopped by `how(process)` when its first shard was there."""
  process = start('drawn', out, '--workers=2', delay=0.1)
  for _ in range(1200):
    if list(out.glob('.unfinished/*.json')):
      break
    time.sleep(0.05)
  how(process)
  return process


def nothing_left(job, tasks):
  assert not tasks


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory) -> dict[str, str]:
  out = tmp_path_factory.mktemp('unbroken') / 'set'
  writing.write(parts.drawn(), out)
  return writing.content(out)


def test_it_opens_as_a_tfds_directory(tmp_path):
  writing.write(parts.drawn(), tmp_path)
  builder = tfds.builder_from_directory(tmp_path)
  train = builder.as_data_source('train')
  good = [
    record.id
    for part in parts.drawn().splits['train']
    for i, record in enumerate(part)
    if isinstance(record, Item) and i % 7 != 6
  ]
  assert [record['id'].decode() for record in train] == good
  assert builder.info.features['label'].names == list(parts.CLASSES)
  first = builder.as_data_source('train[:10%]')
  assert [r['id'].decode() for r in first] == good[: round(len(good) / 10)]
  assert len(builder.as_data_source('train+test')) == len(good) + 7
  record = builder.as_data_source('test')[2]
  assert record['image'].shape == (16, 24, 3)
  assert record['text'] == [b'caption 0 of 3/2', b'caption 1 of 3/2']
  assert builder.info.splits['train'].num_examples == len(good)


def test_the_bad_ones_are_listed_and_counted(tmp_path):
  told = writing.write(parts.drawn(), tmp_path)
  lines = (tmp_path / 'quarantine.jsonl').read_text().splitlines()
  listed = [json.loads(line) for line in lines]
  bad = [
    (split, record.id)
    for split, of in parts.drawn().splits.items()
    for part in of
    for i, record in enumerate(part)
    if isinstance(record, Bad) or i % 7 == 6
  ]
  assert [(line['split'], line['id']) for line in listed] == bad
  assert listed[1]['reason'] == 'no picture: record 10'
  counted = [sum(of['bad'].values()) for of in told['splits'].values()]
  assert sum(counted) == len(bad)
  assert told['splits']['train']['bad']['no picture'] == 2


@pytest.mark.parametrize('workers', [1, 2])
def test_bytes_do_not_depend_on_processes(tmp_path, unbroken, workers):
  writing.write(parts.drawn(), tmp_path, write=writing.in_crew(workers))
  assert writing.content(tmp_path) == unbroken


def kill_command(process):
  os.kill(process.pid, signal.SIGKILL)


def kill_all(process):
  os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize('kill', [kill_command, kill_all])
def test_killed_it_goes_on(tmp_path, unbroken, kill):
  out = tmp_path / 'set'
  ended(stopped(out, kill))
  assert not (out / 'dataset_info.json').exists()
  kept = {
    name: digest
    for name, digest in writing.content(out).items()
    if 'array_record' in name
  }
  assert kept
  code, told, _ = ended(start('drawn', out))
  assert code == 0
  assert 'parts are there already' in told
  assert writing.content(out) == unbroken


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_75(tmp_path, number):
  stop = lambda process: os.kill(process.pid, number)
  code, _, error = ended(stopped(tmp_path / 'set', stop))
  assert (code, error) == (75, 'prepare: stopped; the same command goes on')


def test_a_lost_process_is_named(tmp_path):
  code, _, error = ended(start('deadly', tmp_path))
  assert code == 1
  assert error.startswith(
    "prepare: the process that wrote part '1' of split 'train' was killed by "
    'signal 9 at one of its records 17 to 32; is there too little memory?'
  )
  assert not (tmp_path / 'dataset_info.json').exists()


def test_a_mistake_in_the_source_is_one_line(tmp_path):
  code, _, error = ended(start('wrong', tmp_path))
  assert (code, error) == (2, 'm3i_jax: row 7 has no column')


def test_two_commands_do_not_write_one_directory(tmp_path):
  out = tmp_path / 'set'
  process = stopped(out, lambda process: None)
  with pytest.raises(UserError, match='another prepare is writing'):
    writing.write(parts.drawn(), out)
  assert ended(process)[0] == 0


def test_once_more_is_nothing_to_do(tmp_path, capsys):
  first = writing.write(parts.drawn(), tmp_path)
  unread = parts.drawn()
  told = writing.write(unread, tmp_path, write=lambda *_: 1 / 0)
  assert told == first
  assert 'nothing to do' in capsys.readouterr().out


def test_another_source_is_refused_and_overwrite_begins_anew(tmp_path):
  writing.write(parts.drawn(), tmp_path)
  other = parts.layout(train=[parts.Drawn('7', 5)])
  with pytest.raises(UserError, match='another source'):
    writing.write(other, tmp_path)
  changed = dataclasses.replace(writing.GENEROUS, short_side=8)
  with pytest.raises(UserError, match='other options'):
    writing.write(parts.drawn(), tmp_path, changed)
  writing.write(other, tmp_path, overwrite=True)
  expected = tmp_path / 'fresh'
  writing.write(other, expected)
  fresh = writing.content(expected)
  assert {n: d for n, d in writing.content(tmp_path).items()
          if not n.startswith('fresh')} == fresh  # fmt: skip


def first(job, tasks):
  """Is stopped when one part is written."""
  writing.in_process(job, tasks[:1])
  raise KeyboardInterrupt


def test_another_source_does_not_go_on_from_a_stopped_one(tmp_path, unbroken):
  with pytest.raises(KeyboardInterrupt):
    writing.write(parts.drawn(), tmp_path, write=first)
  before = writing.content(tmp_path)
  other = parts.layout(train=[parts.Drawn('7', 5)])
  with pytest.raises(UserError, match='of drawn has left .* --overwrite'):
    writing.write(other, tmp_path, source='other')
  smaller = dataclasses.replace(writing.GENEROUS, short_side=8)
  with pytest.raises(UserError, match='drawn with other options or labels'):
    writing.write(parts.drawn(), tmp_path, smaller)
  assert writing.content(tmp_path) == before
  with pytest.raises(KeyboardInterrupt):
    writing.write(other, tmp_path, write=first, source='other', overwrite=True)
  with pytest.raises(UserError, match='of other has left'):
    writing.write(parts.drawn(), tmp_path)
  writing.write(parts.drawn(), tmp_path, overwrite=True)
  assert writing.content(tmp_path) == unbroken


def test_files_that_have_changed_may_go_on(tmp_path, unbroken):
  old = parts.drawn()
  stale = dataclasses.replace(old.splits['train'][0], fingerprint='of old')
  old.splits['train'][0] = stale
  with pytest.raises(KeyboardInterrupt):
    writing.write(old, tmp_path, write=first)
  writing.write(parts.drawn(), tmp_path)
  assert writing.content(tmp_path) == unbroken


def test_a_mark_that_is_damaged_is_no_ones(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    writing.write(parts.drawn(), tmp_path, write=first)
  (tmp_path / '.unfinished' / 'source').write_text('{"source":')
  with pytest.raises(UserError, match='begin anew by --overwrite'):
    writing.write(parts.drawn(), tmp_path)


def test_a_larger_share_of_bad_ones_needs_no_new_start(tmp_path):
  strict = dataclasses.replace(writing.GENEROUS, max_bad=0.1)
  with pytest.raises(TooManyBad, match=r'6 of the 42 .*\(4 x .*--max_bad'):
    writing.write(parts.drawn(), tmp_path, strict)
  assert (tmp_path / 'quarantine.jsonl').exists()
  assert not (tmp_path / 'dataset_info.json').exists()
  writing.write(parts.drawn(), tmp_path, write=nothing_left)


def test_most_are_bad_ends_early(tmp_path):
  code, _, error = ended(start('broken', tmp_path))
  assert code == 1
  assert error.endswith("of split 'train' are bad, such as: no field: jpg")
  assert '3000' not in error


def test_the_advice_on_bad_ones_names_the_flag_that_lets_them(tmp_path):
  bad = (Bad('a', 'path leads out of the folder: /x (--absolute lets it)'),)
  with pytest.raises(TooManyBad, match='; --absolute lets paths lead out$'):
    writing.write(parts.layout(train=[parts.Fixed('p', bad)]), tmp_path)


def test_a_split_without_records_is_refused(tmp_path):
  bad = (Bad('a', 'no picture'),)
  layout = parts.layout(train=[parts.Fixed('p', bad)])
  generous = dataclasses.replace(writing.GENEROUS, max_bad=1.0)
  with pytest.raises(TooManyBad, match='1 of the 1 records'):
    writing.write(layout, tmp_path, generous)
  with pytest.raises(TooManyBad, match="'train' has no record"):
    writing.write(parts.layout(train=[]), tmp_path / 'none')


def test_a_part_without_good_records_is_an_empty_shard(tmp_path):
  bad = parts.Fixed('p', (Bad('a', 'no picture'),))
  good = parts.Fixed('q', (Item('b', parts.picture(0)),))
  generous = dataclasses.replace(writing.GENEROUS, max_bad=0.9)
  writing.write(parts.layout(train=[bad, good, bad]), tmp_path, generous)
  source = tfds.builder_from_directory(tmp_path).as_data_source('train')
  assert [record['id'] for record in source] == [b'b']


@pytest.mark.parametrize('file', ['notes.txt', 'dataset_info.json'])
def test_files_of_others_are_left_alone(tmp_path, file):
  (tmp_path / file).write_text('{}')
  for overwrite, told in ((False, 'is not empty'), (True, 'was not made by')):
    with pytest.raises(UserError, match=told):
      writing.write(parts.drawn(), tmp_path, overwrite=overwrite)
  assert [path.name for path in tmp_path.iterdir()] == [file]


def test_shards_of_another_start_are_removed(tmp_path, unbroken):
  job = writer.Job.of(parts.drawn(), tmp_path, writing.GENEROUS)
  other = writer.Task('train', 8, 9, parts.Drawn('9', 3))
  writer.write_part(job, other)
  writing.write(parts.drawn(), tmp_path)
  assert writing.content(tmp_path) == unbroken


def test_stopped_while_it_finished(tmp_path, unbroken, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(finish, '_info', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      writing.write(parts.drawn(), tmp_path)
  assert not (tmp_path / 'dataset_info.json').exists()
  writing.write(parts.drawn(), tmp_path, write=nothing_left)
  assert writing.content(tmp_path) == unbroken
