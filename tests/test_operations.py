"""docs/operations.md against the code: keys, flags, fields, codes, messages."""

import ast
import pathlib
import re

import pytest

from m3i_jax import config, errors, guard, meter, plan, steplog

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / 'docs/operations.md').read_text()
LAUNCH = (ROOT / 'launch/README.md').read_text()


def literals() -> str:
  """Every string of the package, what is filled in as a blank."""
  found = []
  for path in (ROOT / 'm3i_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = (getattr(part, 'value', None) for part in node.values)
        found.append(''.join(p if isinstance(p, str) else '_' for p in parts))
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found.append(node.value)
  return '\n'.join(found)


def test_the_messages_are_those_of_the_code():
  source, symptoms, missing = literals(), [], []
  for line in TEXT.splitlines():
    if line.startswith('| `') or line.startswith('| the same in phase'):
      quoted = line.split(' | ')[0].split('`')[1::2]
      symptoms += [x for x in quoted if ' ' in x]
  assert len(symptoms) > 20
  # Of JAX, of the system, of ArrayRecord.
  foreign = {'Out of memory', 'Bus error', 'Corrupted Riegeli/records file',
             'hash mismatch'}  # fmt: skip
  for symptom in set(symptoms) - foreign:
    # What is filled in stands as ..., a number, a word in capitals or quotes.
    pieces = re.split(r"\.\.\.|\d+|\b[A-Z][A-Z_]*\b|'[^']*'|[=:()]", symptom)
    piece = max(pieces, key=len).strip()
    if piece not in source:
      missing.append((symptom, piece))
  assert not missing


@pytest.mark.parametrize('text', [TEXT, LAUNCH], ids=['operations', 'launch'])
def test_the_keys_of_the_config_exist(text):
  default = config.default()
  for key in set(re.findall(r'config\.([a-z_]+(?:\.[a-z_]+)*)', text)):
    if key in ('json', 'py'):  # files
      continue
    value = default
    for part in key.split('.'):
      assert part in value, key
      value = value[part]


@pytest.mark.parametrize('name', ['STOPPED', 'STUCK', 'DIVERGED'])
def test_the_exit_codes_are_those_of_the_code(name):
  assert f'| {getattr(errors, name)} | {name} |' in TEXT


def test_the_code_of_what_does_not_fit():
  assert f'| {plan.TOO_LARGE} | | `plan` alone' in TEXT


def test_the_fields_of_a_row_are_told():
  table = TEXT[TEXT.index('## Reading metrics.jsonl'):]
  told = set(re.findall(r'`(\w+)`', table))
  row = {'samples', 'learning_rate', 'input_wait_percent', 'memory_gib',
         'memory_peak_gib', *steplog.COUNTS.values()}  # fmt: skip
  row |= meter.Meter(flops=1, batch_size=1).row(1.0).keys()
  assert row <= told, row - told
  # And what is told of the machine is in a row.
  machine = {x for x in told if re.search(r'_(gib|percent|ms|s|chip)$', x)}
  assert machine <= row, machine - row
  assert 'skipped' in guard.init()


def test_the_flags_exist():
  flags = set(re.findall(r'--(\w+)', TEXT)) - {'config'}
  known = ''.join(
    (ROOT / f'm3i_jax/{name}.py').read_text()
    for name in ('main', 'plan/__init__', 'doctor')
  )
  for flag in flags - {'pid', 'shm', 'logdir', 'file_format', 'out'}:
    assert f"'{flag}'" in known, flag


def test_the_links_lead_somewhere():
  for name, text in (('docs', TEXT), ('launch', LAUNCH)):
    for path in re.findall(r'\]\((?!https:)([\w./]+)\)', text):
      assert (ROOT / name / path).exists(), path
