"""What a notebook that imports the core alone has to install."""

import ast
import json
import pathlib
import pkgutil
import subprocess
import sys

import m3i_jax.models

ROOT = pathlib.Path(m3i_jax.__file__).parents[1]
ALLOWED = {'m3i_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy'}
CORE = [f'm3i_jax.{name}' for name in (
  'augment', 'balance', 'captions', 'decoders', 'distributions', 'errors',
  'gradient', 'guard', 'inputs', 'layerwise', 'monitors', 'objective',
  'partition', 'positions', 'regularizers', 'representations', 'step', 'target',
  'views',
)] + [
  f'm3i_jax.models.{module.name}'
  for module in pkgutil.iter_modules(m3i_jax.models.__path__)
]  # fmt: skip
SCRIPT = """
import importlib, json, sys
import jax, flax.linen, flax.struct, optax, numpy
before = set(sys.modules)
for name in json.loads(sys.argv[1]):
  importlib.import_module(name)
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""


def packages(names):
  return {name.split('.')[0] for name in names} - sys.stdlib_module_names


def test_the_core_imports_jax_flax_optax_and_numpy_alone():
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT, json.dumps(CORE)],
    capture_output=True, text=True, check=True, cwd=ROOT,
  )  # fmt: skip
  before, ours = json.loads(done.stdout.splitlines()[-1])
  assert set(CORE) <= set(ours)
  assert packages(ours) <= ALLOWED
  beside = {name for name in ours if name.startswith('m3i_jax.')} - set(CORE)
  assert beside <= {'m3i_jax.models', 'm3i_jax.optim'}
  for name in ('PIL', 'matplotlib', 'tensorflow'):
    assert name not in before + ours


def test_the_core_names_no_other_package():
  """Flax loads Orbax by itself, so that loading it again would not show."""
  for module in CORE:
    file = ROOT.joinpath(*module.split('.')).with_suffix('.py')
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        names.add(node.module)
    assert packages(names) <= ALLOWED, module
