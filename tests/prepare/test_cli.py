"""The command line: names, flags, and all of it once."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import pytest

from m3i_jax.errors import UserError
from m3i_jax.prepare import cli, writer
from m3i_jax.prepare.items import Options
from tests.prepare import making, parts, writing


def test_a_source_has_one_name(tmp_path, monkeypatch):
  photos = tmp_path / 'photos'
  photos.mkdir()
  (tmp_path / 'link').symlink_to('photos')
  (photos / 'stored').touch()
  (photos / 'a.tar').symlink_to('stored')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  typed = ('photos', './photos/', str(photos), '~/photos', 'link', 'link/.')
  assert {cli.real(source) for source in typed} == {str(photos)}
  for source in ('a.tar', 'a-{0..9}.tar', 'missing.csv'):
    assert cli.real(f'link/{source}') == str(photos / source)
  for source in ('tfds:mnist', 's3://a/b', 'https://a/b.tar'):
    assert cli.real(source) == source


def test_out_does_not_lie_in_the_source(tmp_path):
  with pytest.raises(UserError, match='lies in'):
    cli.place(str(tmp_path), str(tmp_path / 'a' / 'out'))
  assert cli.place(str(tmp_path / 'a'), str(tmp_path / 'b')) == str(
    tmp_path / 'b'
  )
  assert cli.place('x', 'gs://bucket/dir/') == 'gs://bucket/dir'


@pytest.mark.parametrize('out', ['file', 'file/a/b'])
def test_out_that_is_no_directory(tmp_path, out):
  making.tree(tmp_path, {'file': b'', 'in/a.png': parts.picture(0)})
  with pytest.raises(UserError, match=f'{tmp_path}/file is no directory'):
    cli.place(str(tmp_path / 'in'), str(tmp_path / out))


def test_out_that_cannot_be_made(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(UserError, match=f'{tmp_path} cannot be written'):
    cli.place(str(tmp_path / 'in'), str(tmp_path / 'a' / 'b'))

  def begin(_):
    raise OSError(30, 'Read-only file system')

  monkeypatch.setattr(writer, 'begin', begin)
  with pytest.raises(UserError, match=r'cannot be written \(Read-only file'):
    writing.write(parts.drawn(), tmp_path / 'out')


def test_a_source_that_changes_meanwhile(tmp_path, monkeypatch, capsys):
  folder = making.tree(tmp_path / 'in', {'a.png': parts.picture(0)})

  def write(job, tasks):
    writing.in_process(job, tasks)
    making.tree(folder, {'a.png': parts.picture(1, size=(8, 8))})

  monkeypatch.setattr(cli.signal, 'signal', lambda *_: None)
  values = types.SimpleNamespace(
    out=str(tmp_path / 'out'), duplicates=False, overwrite=False
  )
  monkeypatch.setattr(cli, 'options', lambda _: Options())
  assert cli.run(str(folder), values, write) == 1
  assert capsys.readouterr().err == (
    "prepare: part '000000' of split 'train' is not what was read: the source "
    'has changed: run the same command again\n'
  )
  assert cli.run(str(folder), values, writing.in_process) == 0


def flag_values(**given):
  values = {
    field.name: types.SimpleNamespace(value=field.default)
    for field in dataclasses.fields(Options)
  }
  return values | {
    name: types.SimpleNamespace(value=value) for name, value in given.items()
  }


def test_flags_are_options():
  assert cli.options(flag_values()) == Options()
  assert cli.options(flag_values(text='a,b')) == Options(text='a,b')


MISTAKES = {
  'records': [0, -1],
  'max_pixels': [0, 178_956_971],
  'short_side': [-1],
  'quality': [0, 101],
  'max_bad': [-0.1, 1.1],
}


@pytest.mark.parametrize(
  'name, value', [(name, v) for name, of in MISTAKES.items() for v in of]
)
def test_values_without_sense_are_refused(name, value):
  with pytest.raises(UserError, match=f'--{name}'):
    cli.options(flag_values(**{name: value}))


def test_the_command_itself(tmp_path):
  """The real one, with dashes in its flags, on a folder."""
  folder = making.tree(
    tmp_path / 'in', {f'dog/{i}.png': parts.picture(i) for i in range(20)}
  )
  line = [sys.executable, '-m', 'm3i_jax.prepare', str(folder)]
  line += ['--out', str(tmp_path / 'out'), '--short-side', '8', '--workers=1']
  done = subprocess.run(
    [*line, '--holdout=0.3', '--duplicates'],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].startswith('prepare: folder ')
  assert lines[-2] == f'prepare: use it with --config.data={tmp_path / "out"}'
  assert lines[-1] == 'duplicates: none'
  again = subprocess.run(
    [*line[:3], os.path.relpath(folder), *line[4:], '--holdout=0.3'],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert 'nothing to do' in again.stdout, again.stderr
  manifest = json.loads((tmp_path / 'out' / 'manifest.json').read_text())
  assert manifest['options']['short_side'] == 8
  sizes = [split['short_side']['max'] for split in manifest['splits'].values()]
  records = [split['records'] for split in manifest['splits'].values()]
  assert (sizes, sum(records)) == ([8, 8], 20)
