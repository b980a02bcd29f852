"""The Beam pipeline writes what the command writes, byte for byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3i_jax.prepare import cli
from m3i_jax.prepare.items import Options
from tests.prepare import making, parts, writing

ROOT = Path(__file__).parents[2]
BEAM = Path(
  os.environ.get('M3I_BEAM_PYTHON', ROOT / '.venv' / 'beam' / 'bin' / 'python')
)
FLAGS = ('--records=4', '--holdout=0.3', '--max_bad=0.5')


@pytest.fixture
def pipeline():
  if not BEAM.exists():
    pytest.skip('no Beam: launch/setup.sh beam, or set M3I_BEAM_PYTHON')
  return lambda *line: run(BEAM, 'm3i_jax.prepare.beam', *line)


def run(python: str | Path, module: str, *line: str | Path) -> str:
  """Standard output of a command that must not fail."""
  done = subprocess.run(
    [python, '-m', module, *line],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
  """Two labels, captions, a picture that is none."""
  files = {f'dog/{i}.png': parts.picture(i) for i in range(9)}
  files |= {f'cat/{i}.jpg': parts.picture(i, 'JPEG') for i in range(6)}
  files |= {f'cat/{i}.txt': f'cat {i}\n' for i in range(6)}
  return making.tree(
    tmp_path_factory.mktemp('folder'), files | {'cat/bad.png': b'<html>'}
  )


def test_the_same_bytes(pipeline, folder, tmp_path):
  theirs, ours = tmp_path / 'beam', tmp_path / 'command'
  pipeline(folder, f'--out={theirs}', *FLAGS, '--', '--runner=DirectRunner')
  run(sys.executable, 'm3i_jax.prepare', folder, f'--out={ours}', *FLAGS)
  content = writing.content(ours)
  assert sum('array_record' in name for name in content) == 8
  assert writing.content(theirs) == content
  assert 'nothing to do' in pipeline(folder, f'--out={ours}', *FLAGS)


def test_it_goes_on_where_the_command_was_stopped(pipeline, folder, tmp_path):
  def first(job, tasks):
    writing.in_process(job, tasks[:2])
    raise KeyboardInterrupt

  given = Options(records=4, holdout=0.3, max_bad=0.5)
  source = cli.real(str(folder))
  layout = cli.recognise(source, given)
  with pytest.raises(KeyboardInterrupt):
    writing.write(layout, tmp_path / 'a', given, first, source=source)
  said = pipeline(folder, f'--out={tmp_path / "a"}', *FLAGS)
  assert '2 of 8 parts are there already' in said
  writing.write(layout, tmp_path / 'b', given)
  assert writing.content(tmp_path / 'a') == writing.content(tmp_path / 'b')
