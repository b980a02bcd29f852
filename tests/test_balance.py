import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3i_jax.balance import Fixed, GradientNorm


def run(balance, pairs):
  """[(lambda, state)] for a sequence of (g_u, g_m)."""
  state, seen = balance.init(), []
  step = jax.jit(balance.__call__)
  for g_u, g_m in pairs:
    weight, state = step(state, jnp.float32(g_u), jnp.float32(g_m))
    seen.append((float(weight), jax.tree.map(float, state)))
  return seen


def test_the_first_values_start_the_averages():
  [(weight, state)] = run(GradientNorm(), [(3.0, 2.0)])
  assert state == {'g_u': 3.0, 'g_m': 2.0}
  assert weight == 1.5


def test_a_gradient_of_zero_is_no_value():
  """A batch without captions moves no average; before both, lambda is gamma."""
  seen = run(GradientNorm(gamma=0.5), [(3.0, 0.0), (3.0, 2.0), (3.0, 0.0)])
  (first, state), (second, later), (third, last) = seen
  assert (first, state) == (0.5, {'g_u': 3.0, 'g_m': -1.0})
  np.testing.assert_allclose([second, later['g_m']], [0.75, 2.0], rtol=1e-6)
  np.testing.assert_allclose([third, last['g_m']], [0.75, 2.0], rtol=1e-6)


@pytest.mark.parametrize('gamma, decay', [(1.0, 0.99), (0.5, 0.9)])
def test_lambda_is_gamma_times_the_ratio_of_averages(gamma, decay):
  pairs = np.random.default_rng(0).uniform(0.1, 5, (6, 2))
  u, m = pairs[0]
  for (weight, state), (g_u, g_m) in zip(
    run(GradientNorm(gamma, decay), pairs), pairs, strict=True
  ):
    u, m = decay * u + (1 - decay) * g_u, decay * m + (1 - decay) * g_m
    np.testing.assert_allclose(
      [state['g_u'], state['g_m'], weight], [u, m, gamma * u / m], rtol=1e-6
    )


@pytest.mark.parametrize(
  'g_u, g_m, wanted',
  [(1.0, 1e-6, 1e4), (1e-6, 1.0, 1e-4)],
)
def test_lambda_is_kept_within_bounds(g_u, g_m, wanted):
  [(weight, _)] = run(GradientNorm(), [(g_u, g_m)])
  np.testing.assert_allclose(weight, wanted, rtol=1e-6)


def test_no_gradient_through_lambda():
  def weight(g_u, g_m, gbar):
    return GradientNorm()({'g_u': gbar, 'g_m': gbar}, g_u, g_m)[0]

  gradients = jax.grad(weight, (0, 1, 2))(2.0, 3.0, 1.5)
  np.testing.assert_array_equal(gradients, 0.0)


def test_fixed_keeps_its_value_and_no_state():
  balance = Fixed(0.3)
  assert balance.init() == {}
  weight, state = balance({}, jnp.float32(5.0), jnp.float32(0.0))
  assert state == {}
  np.testing.assert_array_equal(weight, np.float32(0.3))
