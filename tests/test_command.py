"""What the small commands share: help, and mistakes in one line."""

import subprocess
import sys

import pytest


def prepare(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', 'm3i_jax.prepare', *words],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip


def test_help_lists_the_flags_of_the_command_alone():
  done = prepare('--help')
  assert done.stdout.startswith('Makes a data set of pictures')
  for flag in ('out', 'workers', 'short_side', 'classes'):
    assert f'\n  --{flag}: ' in done.stdout
  for other in ('verbosity', 'short-side', 'python -m m3i_jax.prepare\n'):
    assert other not in done.stdout


@pytest.mark.parametrize(
  ('words', 'told'),
  [
    ((), 'SOURCE is missing and --out is missing; see --help'),
    (('--out=x',), 'SOURCE is missing; see --help'),
    (('a',), '--out is missing; see --help'),
    (('a', '--out=x', '--workers=0'),
     'flag --workers=0: 0 is not a positive integer; see --help'),
    (('a', 'b', '--out=x'), '2 paths are given, and one is wanted; see --help'),
  ],
)
def test_mistakes_are_one_line(words, told):
  done = prepare(*words)
  assert done.returncode == 2 and done.stderr == f'm3i_jax: {told}\n'
