"""What the README says in code runs as it stands."""

import pathlib
import re

import numpy as np

from m3i_jax import build, distributions

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def test_the_notebook_snippet_runs(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT))
  (code,) = re.findall(r'```python\n(.*?)```', README, re.S)
  names: dict = {}
  exec(code, names)
  assert int(names['state'].step) == 1
  assert np.isfinite(float(names['metrics']['loss']))
  assert names['features'].shape == (16, 32)


def test_the_worked_examples_run():
  """docs/add_a_target.md: a method as a config, and a distribution."""
  text = (ROOT / 'docs/add_a_target.md').read_text()
  method, laplace, test = re.findall(r'```python\n(.*?)```', text, re.S)
  names: dict = {}
  exec(method, names)
  c = names['get_config']('debug')
  assert set(build.build(c).targets) == {'vector', 'pixels'}
  names = vars(distributions) | {'np': np}
  exec(laplace, names)
  exec(test, names)


def test_paths_and_configs_named_exist():
  for path in re.findall(r'\]\(([\w./]+)\)', README):
    assert (ROOT / path).exists(), path
  for path in re.findall(r'configs/\w+\.py|launch/\w+\.sh', README):
    assert (ROOT / path).exists(), path
  configs = {p.name for p in (ROOT / 'configs').glob('*.py')}
  assert configs == set(re.findall(r'`configs/(\w+\.py)`', README))
