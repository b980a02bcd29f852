"""The Beam pipeline writes what the command writes, byte for byte."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.prepare import parts, writing

ROOT = Path(__file__).parents[2]
PYTHON = Path(
  os.environ.get('M3I_BEAM_PYTHON', ROOT / '.venv' / 'beam' / 'bin' / 'python')
)


@pytest.fixture
def beam():
  if not PYTHON.exists():
    pytest.skip('no Beam: launch/setup.sh beam, or set M3I_BEAM_PYTHON')


def run(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [str(PYTHON), '-m', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_the_same_bytes(beam, tmp_path):
  theirs, ours = tmp_path / 'beam', tmp_path / 'command'
  flags = ('drawn', f'--out={theirs}', '--max_bad=0.5')
  done = run('tests.prepare.beaming', *flags, '--', '--runner=DirectRunner')
  assert done.returncode == 0, done.stderr
  writing.write(parts.drawn(), ours)
  assert writing.content(theirs) == writing.content(ours)
  again = run('tests.prepare.beaming', *flags)
  assert 'nothing to do' in again.stdout


def test_it_goes_on_from_the_command(beam, tmp_path):
  def first(job, tasks):
    writing.in_process(job, tasks[:2])
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writing.write(parts.drawn(), tmp_path / 'a', write=first)
  flags = ('drawn', f'--out={tmp_path / "a"}', '--max_bad=0.5')
  done = run('tests.prepare.beaming', *flags)
  assert '2 of 4 parts are there already' in done.stdout
  writing.write(parts.drawn(), tmp_path / 'b')
  assert writing.content(tmp_path / 'a') == writing.content(tmp_path / 'b')
