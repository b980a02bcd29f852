"""What the panel asks of a trained objective."""

import jax
import numpy as np

from m3i_jax import sharding, showcase
from m3i_jax.representations import Represented
from tests import small


class Words:
  """A tokenizer: each text is its number."""

  def encode(self, text: str, length: int) -> np.ndarray:
    return np.full(length, int(text), np.int32)


def test_captions_are_scored_by_the_tower_of_their_target():
  """Two towers, one of them behind a predictor."""
  other = small.TEXT | dict(predictor=dict(kind='mlp', hidden=(9,)))
  c = small.small_config(dict(one=small.TEXT, other=other))
  c.data.text_length = 4
  objective = small.small_objective(c)
  key = jax.random.key(0)
  params = jax.jit(objective.init)(key, small.draw_batch(), key)['params']
  params = small.perturbed(params)
  mesh = sharding.make_mesh(1, -1)
  seen = showcase.Encoders(c, objective, Words(), mesh)
  rng = np.random.default_rng(0)
  prediction = rng.standard_normal((2, 20), np.float32)
  z = Represented(None, np.ones(2, bool))
  choices = ['3', '5', '7']
  tokens = np.stack([Words().encode(x, 4) for x in choices])
  for name in ('one', 'other'):
    found = seen._probabilities(params, name, z, prediction, choices)
    text = objective.apply({'params': params}, tokens, name, method='embed')
    scale = params[f'targets_{name}']['distribution']['logit_scale']
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    logits = np.exp(scale) * unit(prediction) @ unit(np.asarray(text)).T
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
      found, odds / odds.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
    )
