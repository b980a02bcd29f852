"""The analytic count, against known models and against the compiler."""

import jax
import pytest

from m3i_jax import flops
from tests import small


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
