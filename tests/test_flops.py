"""The analytic count, against known models, the program and the compiler."""

import math

import jax
import pytest
from jax.interpreters import partial_eval

from m3i_jax import config, flops, step
from m3i_jax.bench import random_batch
from m3i_jax.gradient import Teachers, loss_and_gradient
from m3i_jax.models import backbone
from tests import small, test_configs


def test_vit_b_is_the_published_count():
  # 17.5 GMACs for timm's vit_base_patch16_224, less its classifier (0.77 M)
  # and with the patch embedding (0.116 G): two operations a MAC.
  vit = flops.layers(197, 12, 768, 3072) + 2 * 196 * 768 * 768
  assert vit / 2e9 == pytest.approx(17.56, abs=0.03)


def test_parts_of_m3i_by_hand():
  objective = small.small_objective()
  parts = flops.analytic(objective, small.SIDE, 8, 6)
  theta = objective.encoder
  embed = 2 * 16 * small.PATCH**2 * 3 * theta.width
  blocks = flops.layers(
    16 + theta.class_token, theta.depth, theta.width, theta.hidden
  )
  # The embedding's backward pass is one product: pixels need no gradient.
  assert parts['encoder'] == 8 * (3 * blocks + 2 * embed)
  assert parts['target encoder'] == 8 * 2 * (blocks + embed)
  tower = objective.targets['text'].representation
  assert parts['text tower'] == 8 * 3 * flops.layers(
    6, tower.depth, tower.width, tower.hidden
  )


def test_dense_encoder_matches_the_compiler():
  config = small.small_config()
  config.model.unroll = 2  # the compiler counts the body of a loop once
  objective = small.small_objective(config)
  image = jax.numpy.zeros((8, small.SIDE, small.SIDE, 3))
  params = objective.encoder.init(jax.random.key(0), image)
  encode = jax.jit(lambda p, x: objective.encoder.apply(p, x)['tokens'])
  reported = encode.lower(params, image).compile().cost_analysis()['flops']
  count = 8 * (
    2 * 16 * small.PATCH**2 * 3 * objective.encoder.width
    + flops.layers(
      16 + objective.encoder.class_token, objective.encoder.depth,
      objective.encoder.width, objective.encoder.hidden,
    )
  )  # fmt: skip
  # The compiler adds norms, softmax and GELU: a lot in a model this narrow.
  assert count < reported < 1.5 * count


def products(jaxpr) -> int:
  """Operations of all matrix products of a program, loops unrolled."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      inner = math.prod(shape[n] for n in contracted)
      total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    times = 1
    if equation.primitive.name == 'scan':
      times = equation.params['length']
    for value in equation.params.values():
      for part in value if isinstance(value, tuple | list) else (value,):
        part = getattr(part, 'jaxpr', part)
        if hasattr(part, 'eqns'):
          total += times * products(part)
  return total


def test_convnets_are_the_published_counts():
  """GMACs of InternImage's and ConvNeXt's papers, rounded there."""
  published = {
    ('internimage', 224): dict(T=5, S=8, B=16),
    ('internimage', 384): dict(L=108, XL=163),
    ('internimage', 640): dict(H=1478),
    ('internimage', 512): dict(G=2700),
    ('convnext', 224): dict(T=4.5, S=8.7, B=15.4, L=34.4),
  }
  for (name, side), variants in published.items():
    for variant, macs in variants.items():
      model = backbone(name, variant)
      counted = flops.convnet(model, side) / 2e9
      rounding = 0.06 if isinstance(macs, float) else max(0.5, 0.01 * macs)
      assert counted == pytest.approx(macs, abs=rounding), (name, variant)


def test_the_fused_map_and_the_way_back_by_hand():
  model = backbone('internimage', 'T', num_classes=0, fused=256)
  plain = backbone('internimage', 'T', num_classes=0)
  fused = flops.convnet(model, 64) - flops.convnet(plain, 64)
  assert fused == 2 * (4 * 512 * 4 * 256 + 16 * 256 * 256)
  stem = 2 * 32 * 32 * 27 * 32  # pixels need no gradient
  whole = flops.convnet(model, 64)
  assert flops._trained(model, 16) == 3 * whole - stem


def vits():
  return [
    name for name, case in test_configs.CASES.items()
    if test_configs.get(*case).model.name == 'vit'
  ]  # fmt: skip


@pytest.mark.parametrize('name', vits())
def test_every_method_is_the_programs_products(name):
  """Less what is computed twice to save memory, and cells picked by products.

  These are the scores of the Boltzmann form, and hidden cells' codes.
  """
  c = test_configs.get(*test_configs.CASES[name])
  config.debug(c)
  for view in c.views.values():  # colours have products, too
    view.update(jitter=0.0, gray=0.0, blur=0.0, solarize=0.0)
  for row in c.targets.values():
    row.watched = False
  objective, optimizer, length = test_configs.made(c, 5, 400)
  batch = random_batch(objective, c, length)
  state = jax.eval_shape(
    lambda: step.init_state(objective, optimizer, 0, batch)
  )

  def gradient(params, teachers, running):
    balance = objective.balance.init()
    return loss_and_gradient(
      objective, params, teachers, running, balance, batch, jax.random.key(0)
    )[:2]

  program = jax.make_jaxpr(gradient)(
    state.params, Teachers(state.ema, state.frozen), state.running
  ).jaxpr
  every = [True] * len(program.outvars)
  found = products(partial_eval.dce_jaxpr(program, every)[0])
  parts = flops.analytic(objective, c.image_size, c.batch_size, length)
  wanted = sum(parts.values())
  assert wanted <= found < 1.04 * wanted, parts
  again = any(x.startswith('scores') for x in parts)
  hidden = any(row.get('cells') == 'hidden' for row in c.targets.values())
  if not (again or hidden):
    assert found == wanted, parts
