"""The step: its update, its schedules, and that no mesh changes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax import build, sharding
from m3i_jax.models import placement
from m3i_jax.optim import Optimizer, decayed, momentum
from m3i_jax.step import init_state, make_train_step, zero_batch
from tests import small

STEPS = 3
# Compiling takes most of the time, and the code runs three steps.
QUICK = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}


class Run:
  """A few steps of a config, on one device or as train.py does on a mesh.

  Attributes:
    states: before, between and after the steps, on the host.
    metrics: of each step.
    shardings: of the leaves of the state after the steps.
    text: the lowered step.
  """

  def __init__(self, c, batches, mesh=None):
    objective = small.small_objective(c)
    optimizer = build.optimizer(c).build(c.total_steps)
    mu = momentum(**c.ema, total_steps=c.total_steps)
    train_step = make_train_step(objective, optimizer, mu, c.seed)
    shapes = zero_batch(2, small.SIDE, objective.view_letters, 6)
    init = lambda seed: init_state(objective, optimizer, seed, shapes)
    self.seed = c.seed
    out_init = out_step = None
    if mesh is not None:
      out_init = sharding.state_shardings(mesh, jax.eval_shape(init, 0))
      out_step = (out_init, sharding.replicated(mesh))
      rows = sharding.batch_sharding(mesh)
      batches = [sharding.put(b, rows, c.batch_size) for b in batches]
    self.init = jax.jit(init, out_shardings=out_init)
    state = self.fresh()
    lowered = jax.jit(
      train_step, donate_argnums=0, out_shardings=out_step
    ).lower(state, batches[0])
    self.text, self.step = lowered.as_text(), lowered.compile(QUICK)
    self.states, self.metrics = [jax.device_get(state)], []
    for batch in batches:
      state, metrics = self.step(state, batch)
      self.states.append(jax.device_get(state))
      self.metrics.append(jax.device_get(metrics))
    self.shardings = jax.tree.map(lambda x: x.sharding, state)

  def fresh(self):
    return self.init(self.seed)


def step_config():
  c = small.small_config(colours=True)
  c.batch_size = 16
  c.model.drop_path = 0.3
  c.ema.start = 0.9
  # A larger epsilon: Adam scales the rounding of a gradient that is zero, such
  # as that of a key's bias, up to a whole step.
  c.optimizer.update(warmup=0.2, eps=1e-4, learning_rate=1e-2)
  return c


BATCHES = [small.draw_batch(seed, 16) for seed in range(STEPS)]


@pytest.fixture(scope='module')
def run():
  return Run(step_config(), BATCHES)


def leaves(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def close(got, wanted, rtol, atol):
  got, wanted = leaves(got), leaves(wanted)
  assert got.keys() == wanted.keys()
  for key, value in wanted.items():
    np.testing.assert_allclose(got[key], value, rtol, atol, err_msg=key)


def test_momentum_runs_from_start_to_end():
  mu = momentum(0.995, 1.0, 1000)
  assert mu(0) == np.float32(0.995)
  assert mu(1000) == 1 == mu(1001)
  np.testing.assert_allclose(mu(500), 0.9975, rtol=1e-7)
  wanted = 1 - 0.005 * (1 + np.cos(np.pi * 0.25)) / 2
  np.testing.assert_allclose(mu(250), wanted, rtol=1e-7)


def test_the_average_takes_in_the_parameters_before_the_step(run):
  """xi <- mu xi + (1 - mu) theta, with the theta that makes the targets."""
  for t, (before, after) in enumerate(
    zip(run.states, run.states[1:], strict=False)
  ):
    mu = 1 - 0.1 * (1 + np.cos(np.pi * t / 10)) / 2
    np.testing.assert_allclose(run.metrics[t]['ema_momentum'], mu, rtol=1e-6)
    wanted = jax.tree.map(
      lambda xi, theta, mu=mu: mu * xi + (1 - mu) * theta,
      before.ema,
      {'encoder': before.params['encoder']},
    )
    close(after.ema, wanted, rtol=1e-6, atol=1e-7)
    assert after.step == t + 1
  assert set(run.states[0].ema) == {'encoder'}
  close(run.states[0].ema['encoder'], run.states[0].params['encoder'], 0, 0)
  first, last = run.states[1].ema, run.states[-1].ema
  differ = [np.abs(x - y).max() for x, y in zip(
    leaves(first).values(), leaves(last).values(), strict=True
  )]  # fmt: skip
  assert max(differ) > 1e-4


def draw_tree(seed: int, size: float = 1.0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: size * rng.standard_normal(shape).astype(np.float32)
  return {
    'encoder': {
      'patch_embed': {'kernel': draw(4, 3), 'bias': draw(3)},
      # Stacked layers: two axes do not make a weight of a scale.
      'layers': {
        'norm1': {'scale': draw(2, 3), 'bias': draw(2, 3)},
        'fc1': {'kernel': draw(2, 3, 5), 'bias': draw(2, 5)},
      },
      'cls_token': draw(1, 1, 3),
    },
    'targets_text': {'distribution': {'logit_scale': draw()}},
    'decoders_dense': {'position_kernel': draw(6, 3), 'position_bias': draw(3)},
  }


KEPT = (
  'encoder/layers/fc1/bias',
  'encoder/layers/norm1/bias',
  'encoder/layers/norm1/scale',
  'encoder/patch_embed/bias',
  'decoders_dense/position_bias',
  'targets_text/distribution/logit_scale',
)


def adamw(params, gradients, steps, warmup, peak, decay, clip, frozen):
  """By hand, float64. One step a gradient; the rate is that before the step."""
  params = {k: np.float64(v) for k, v in leaves(params).items()}
  m = {k: np.zeros_like(v) for k, v in params.items()}
  v = {k: np.zeros_like(x) for k, x in params.items()}
  for t, gradient in enumerate(gradients):
    g = {k: np.float64(x) for k, x in leaves(gradient).items()}
    for key in g:
      if key.startswith(frozen):
        g[key] = 0 * g[key]
    size = np.sqrt(sum((x**2).sum() for x in g.values()))
    rate = peak * t / warmup if t < warmup else peak * 0.5 * (
      1 + np.cos(np.pi * (t - warmup) / (steps - warmup))
    )  # fmt: skip
    for k in params:
      if k.startswith(frozen):
        continue
      x = g[k] * min(1.0, clip / size)
      m[k] = 0.9 * m[k] + 0.1 * x
      v[k] = 0.95 * v[k] + 0.05 * x**2
      update = m[k] / (1 - 0.9 ** (t + 1))
      update /= np.sqrt(v[k] / (1 - 0.95 ** (t + 1))) + 1e-8
      params[k] -= rate * (update + decay * (k not in KEPT) * params[k])
  return params


@pytest.mark.parametrize('frozen', [(), ('encoder/patch_embed',)])
def test_the_update_is_adamw_by_hand(frozen):
  """Warm-up, cosine to 0, clipping (of large gradients only), decay, freeze."""
  steps = 10
  chain = Optimizer(
    1e-2, warmup=0.3, weight_decay=0.1, clip=1.0, freeze=frozen
  ).build(steps)
  gradients = [draw_tree(t, 10 ** (t % 3 - 2)) for t in range(steps)]
  start = params = draw_tree(99)
  state = chain.init(params)
  update = jax.jit(chain.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  wanted = adamw(
    start, gradients, steps, 3, 1e-2, 0.1, 1.0, frozen or 'nothing'
  )
  for key, value in leaves(params).items():
    np.testing.assert_allclose(
      value, wanted[key], rtol=1e-5, atol=1e-6, err_msg=key
    )
    moved = np.abs(value - leaves(start)[key]).max() > 1e-3
    assert moved != key.startswith(frozen or 'nothing')


def test_no_decay_for_biases_norms_and_temperature(run):
  """Every parameter of the small M3I, by name: stacked norms have two axes."""
  names = leaves(decayed(run.states[0].params))
  kept = {key for key, decays in names.items() if not decays}
  last = {key.rsplit('/', 1)[1] for key in kept}
  assert last == {'bias', 'scale', 'logit_scale', 'position_bias'}
  assert 'targets_text/distribution/logit_scale' in kept
  decays = {key.rsplit('/', 1)[1] for key in names.keys() - kept}
  assert decays == {
    'kernel', 'cls_token', 'mask_token', 'position_kernel', 'table', 'word',
    'position', 'type',
  }  # fmt: skip


def test_no_decay_for_the_bias_of_pairs():
  scalars = {'logit_scale': 1.0, 'offset': -10.0}
  assert not any(decayed({'distribution': scalars})['distribution'].values())


@pytest.mark.parametrize(
  'shape',
  [
    (2, 2, 2),
    pytest.param((1, 8, 1), marks=pytest.mark.slow),
    pytest.param((8, 1, 1), marks=pytest.mark.slow),
  ],
)
def test_no_mesh_changes_the_run(run, shape):
  """Same colours, masks and dropped paths: else the losses would be apart."""
  mesh = sharding.make_mesh(*shape)
  with pytest.MonkeyPatch.context() as patch, jax.set_mesh(mesh):
    patch.setattr(placement, 'SMALLEST', 64)
    other = Run(step_config(), BATCHES, mesh)
  assert 'sharding_constraint' in other.text
  assert 'sharding_constraint' not in run.text
  last = other.states[-1]
  split = ['fsdp' in str(x.spec) for x in jax.tree.leaves(other.shardings)]
  assert sum(split) > 50 if shape[1] > 1 else not any(split)
  tensor = ['tensor' in str(x.spec) for x in jax.tree.leaves(other.shardings)]
  assert sum(tensor) > 50 if shape[2] > 1 else not any(tensor)
  for got, wanted in zip(other.metrics, run.metrics, strict=True):
    close(got, wanted, rtol=1e-4, atol=1e-6)
  close(last.params, run.states[-1].params, rtol=0, atol=1e-5)
  close(last.ema, run.states[-1].ema, rtol=0, atol=1e-6)
  close(last.opt_state, run.states[-1].opt_state, rtol=1e-3, atol=1e-6)
  close(last.balance, run.states[-1].balance, rtol=1e-4, atol=0)


def test_the_same_seed_gives_the_same_bits(run):
  close(run.fresh(), run.states[0], 0, 0)
  state = run.fresh()
  for t, batch in enumerate(BATCHES):
    state, metrics = run.step(state, batch)
    close(metrics, run.metrics[t], 0, 0)
  close(state, run.states[-1], 0, 0)


def test_each_step_draws_anew(run):
  """Same parameters and batch, another step: other masks and colours."""
  losses = []
  for t in range(3):
    state = run.fresh().replace(step=jnp.int32(t))
    losses.append(run.step(state, BATCHES[0])[1]['loss/intra'])
  assert np.abs(np.diff(losses)).min() > 1e-3


def test_another_seed_is_another_start(run):
  one, other = leaves(run.init(0).params), leaves(run.init(1).params)
  key = 'encoder/blocks/layers/attn/qkv/kernel'
  assert np.abs(one[key] - other[key]).max() > 0.1


def test_the_state_is_donated_and_holds_no_buffer_twice(run):
  state = run.fresh()
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
  assert len(set(pointers)) == len(pointers)
  after, _ = run.step(state, BATCHES[0])
  assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
  assert all(x.is_deleted() for x in jax.tree.leaves(state.ema))
  pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(after)]
  assert len(set(pointers)) == len(pointers)


def broken(batch, row):
  """The batch, with a crop of picture `row` that is nowhere."""
  box = batch['b']['box'].copy()
  box[row] = np.nan
  return batch | {'b': batch['b'] | {'box': box}}


def test_a_step_that_is_not_finite_changes_nothing_but_counters(run):
  state, _ = run.step(run.fresh(), BATCHES[0])
  before = jax.device_get(state)
  for count in (1, 2):
    state, metrics = run.step(state, broken(BATCHES[1], 5))
    assert not metrics['good'] and not np.isfinite(metrics['loss/inter'])
    assert np.isfinite(metrics['loss/intra'])
    # Picture 5 is the second of input 4: its tokens get the bad gradient.
    assert np.flatnonzero(metrics['unsound']).tolist() == [4]
    assert metrics['leaves'].any()
    after = jax.device_get(state)
    for field in ('params', 'ema', 'running', 'opt_state', 'balance'):
      close(getattr(after, field), getattr(before, field), 0, 0)
    assert after.step == 1 + count
    assert after.guard['skipped'] == after.guard['in_a_row'] == count
  state, metrics = run.step(state, BATCHES[1])
  assert metrics['good'] and not metrics['unsound'].any()
  after = jax.device_get(state)
  assert after.guard['skipped'] == 2 and after.guard['in_a_row'] == 0
  moved = np.abs(
    leaves(after.params)['encoder/blocks/layers/mlp/fc1/kernel']
    - leaves(before.params)['encoder/blocks/layers/mlp/fc1/kernel']
  )
  assert moved.max() > 1e-4


def test_the_counts_and_the_digest_are_of_the_batch(run):
  state, metrics = run.step(run.fresh(), BATCHES[0])
  wanted = BATCHES[0]['replaced'].sum()
  assert state.counts['replaced'] == wanted > 0
  state, _ = run.step(state, BATCHES[1])
  assert state.counts['replaced'] == wanted + BATCHES[1]['replaced'].sum()
  other, _ = run.step(run.fresh(), BATCHES[1])
  swapped = BATCHES[0] | {'record': BATCHES[0]['record'][::-1]}
  for batch in (BATCHES[1], swapped):
    digest = run.step(run.fresh(), batch)[1]['samples']
    assert (digest != metrics['samples']).all()
