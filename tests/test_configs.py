"""Every config: what it says, what it builds, and that it learns.

One text file each in tests/golden/configs holds the resolved targets, the
parameters' shapes and the first three losses of `:debug`. After a change that
is meant, write them again and read the difference:

    python -m tests.test_configs
"""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from m3i_jax import build, config, recipes, step
from m3i_jax.bench import random_batch
from m3i_jax.optim import momentum

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / 'tests/golden/configs'
ARGS = {
  'instance_discrimination': ('moco', 'byol', 'barlow'),
  'siamese_global': ('', 'msn'),
  'm3i_nomix': ('', 'intra'),
}
CASES = {
  f'{path.stem}{"_" if arg else ""}{arg}': (path, arg)
  for folder in ('configs', 'configs/table1')
  for path in sorted((ROOT / folder).glob('*.py'))
  if not path.stem.startswith('ablation')
  for arg in ARGS.get(path.stem, ('',))
}
CLASSES, VOCABULARY = 1000, 30522
# No gradient, and why: a softmax over keys does not see what moves all alike,
# nor does a projector or a predictor (BYOL's) with batch norm.
DEAD = (
  'decoders_pool/k/bias', 'decoders_pool/norm_k/bias', 'encoder/norm/bias',
  'decoders_project/layers/fc2/bias',
)  # fmt: skip
# Nor what offsets and modulations are made of, as long as their last maps are
# 0, as they are at the start.
DEAD_AT_FIRST = '/dcn/dw_'
STEPS = 80


def get(path, arg):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def made(c, classes, vocabulary):
  """(objective, optimizer, batch) of a config; its gradient is kept."""
  objective = build.build(c, classes, vocabulary)
  length = c.data.text_length if objective.reading('text') else 0
  keep = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, *_: (g, g)
  )
  optimizer = optax.chain(keep, build.optimizer(c).build(c.total_steps))
  return objective, optimizer, length


def leaves(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): x
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def described(path, arg) -> str:
  """The targets and the shapes of the config at its full size."""
  c = get(path, arg)
  objective, optimizer, length = made(c, CLASSES, VOCABULARY)
  batch = step.zero_batch(2, c.image_size, objective.view_letters, length)
  state = jax.eval_shape(
    lambda: step.init_state(objective, optimizer, 0, batch)
  )
  shapes = leaves(state.params)
  count = sum(x.size for x in shapes.values()) / 1e6
  parts = {k: c[k].to_dict() for k in ('input', 'decoders', 'targets')}
  text = json.dumps(parts, indent=1)
  sized = lambda x: 'x'.join(map(str, x.shape))
  lines = [f'{name} {sized(x)}' for name, x in shapes.items()]
  ema = ', '.join(state.ema) or 'none'
  return '\n'.join(
    [text, f'target encoder: {ema}', f'parameters: {count:.3f} M', *lines]
  )


def fifteenth():
  """A method that is no row: a masked view -> another's vector and pixels."""
  c = recipes.table3(
    project=recipes.projector(64, out=32), dense=recipes.TABLE7['dense']
  )
  c.input = dict(view='a', images=1, mask=0.5, pattern='block', hidden='drop')
  c.targets.vector = recipes.vector(
    'b',
    distribution=dict(kind='boltzmann', temperature=0.2, normalize=True),
    regularizer='negatives',
  )
  c.targets.pixels = recipes.pixels('b')
  return c


class Run:
  """A config's debug size on one batch, over and over."""

  def __init__(self, c):
    config.debug(c)
    c.total_steps = 300
    c.optimizer.warmup = 0.0
    objective, optimizer, length = made(c, 5, 400)
    batch = random_batch(objective, c, length)
    if 'label' in batch:
      batch['label'] %= 5
    if length:
      batch['text'] = 1 + batch['text'] % 399
    train_step = step.make_train_step(
      objective, optimizer, momentum(**c.ema, total_steps=c.total_steps), 0
    )
    init = lambda: step.init_state(objective, optimizer, 0, batch)
    train_step = jax.jit(train_step)
    state = jax.jit(init)()
    self.losses, self.gradient = [], None
    for _ in range(STEPS):
      state, measured = train_step(state, batch)
      self.losses.append(float(measured['loss']))
      size = jax.tree.map(lambda x: float(np.abs(x).max()), state.opt_state[0])
      self.gradient = self.gradient or leaves(size)
    self.measured = {
      k: float(v) for k, v in measured.items() if np.ndim(v) == 0
    }


@pytest.mark.parametrize('name', CASES)
def test_config(name):
  wanted, losses = (GOLDEN / f'{name}.txt').read_text().split('\nlosses: ')
  assert described(*CASES[name]) == wanted
  run = Run(get(*CASES[name]))
  # Sums differ between machines, and Adam makes the most of it.
  np.testing.assert_allclose(
    run.losses[:3], [float(x) for x in losses.split()], rtol=1e-3
  )
  dead = {
    k for k, v in run.gradient.items() if v < 1e-7 and DEAD_AT_FIRST not in k
  }
  assert dead <= set(DEAD), 'no gradient reaches a leaf'
  assert np.mean(run.losses[-8:]) < np.mean(run.losses[:8]), run.losses
  assert all(np.isfinite(v) for v in run.measured.values())


def test_a_fifteenth_method_is_a_config():
  run = Run(fifteenth())
  assert min(run.gradient.values()) > 1e-7
  assert {'loss/vector', 'top1/vector', 'loss/pixels'} <= set(run.measured)
  assert np.mean(run.losses[-8:]) < np.mean(run.losses[:8]), run.losses


def test_every_row_of_table_1_has_a_file():
  found = {path.stem for path in (ROOT / 'configs/table1').glob('*.py')}
  assert found == {
    'image_classification', 'clip', 'auto_encoder', 'dense_distillation',
    'global_distillation', 'mim_pixel', 'mim_feature', 'mim_global',
    'novel_view_synthesis', 'dense_instance_discrimination',
    'instance_discrimination', 'siamese_pixel', 'siamese_feature',
    'siamese_global',
  }  # fmt: skip


if __name__ == '__main__':
  GOLDEN.mkdir(exist_ok=True)
  for name, case in CASES.items():
    run = Run(get(*case))
    told = ' '.join(f'{x:.6g}' for x in run.losses[:3])
    (GOLDEN / f'{name}.txt').write_text(f'{described(*case)}\nlosses: {told}\n')
    fell = np.mean(run.losses[-8:]) / np.mean(run.losses[:8])
    print(f'{name}: {told}; to {fell:.3f} of the loss', flush=True)
    print('  ', {k: v for k, v in run.gradient.items() if v < 1e-7})
