"""What prepare imports is what its environments have; never JAX."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {'absl': 'absl-py', 'PIL': 'pillow'}
# In turn all that a worker may import of this package.
MODULES = sorted((ROOT / 'm3i_jax' / 'prepare').glob('*.py'))


def imported(path: Path) -> set[str]:
  """Names of packages that a file imports anywhere."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name.partition('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module.partition('.')[0])
  return names - set(sys.stdlib_module_names) - {'m3i_jax'}


@pytest.mark.parametrize('name', ['beam', 'tensorflow'])
def test_the_list_has_what_is_imported(name):
  lines = (ROOT / f'requirements-{name}.txt').read_text().splitlines()
  listed = {re.match(r'[\w-]*', line)[0] for line in lines}
  wanted = set().union(*map(imported, MODULES))
  wanted = {PACKAGES.get(x, x).replace('_', '-') for x in wanted}
  given = {x.replace('_', '-') for x in listed}
  assert wanted - given <= ({'apache-beam'} if name == 'tensorflow' else set())


def test_jax_is_not_imported():
  modules = ', '.join(
    f'm3i_jax.prepare.{path.stem}'
    for path in MODULES
    if path.stem not in ('__init__', '__main__')
  )
  code = f'import sys, {modules}; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
