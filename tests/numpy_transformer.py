"""A transformer in plain NumPy, float64: what the Flax layers should do."""

import math

import jax
import numpy as np

erf = np.vectorize(math.erf, otypes=[float])


def perturbed(params: dict, seed: int = 0, scale: float = 0.1) -> dict:
  """Every parameter moved: at the start biases are 0 and scales are 1."""
  rng = np.random.default_rng(seed)
  move = lambda x: np.float32(x + scale * rng.normal(size=x.shape))
  return jax.tree.map(move, params)


def linear(x, p):
  return x @ np.asarray(p['kernel'], float) + np.asarray(p['bias'], float)


def norm(x, p, eps):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  return x * np.asarray(p['scale'], float) + np.asarray(p['bias'], float)


def attend(q, k, v, heads):
  """One sample: queries [M, D] over keys and values [N, D], head by head."""
  head = q.shape[-1] // heads
  found = []
  for start in range(0, heads * head, head):
    part = slice(start, start + head)
    score = q[:, part] @ k[:, part].T / math.sqrt(head)
    weight = np.exp(score - score.max(-1, keepdims=True))
    found.append(weight / weight.sum(-1, keepdims=True) @ v[:, part])
  return np.concatenate(found, axis=-1)


def attention(x, p, heads):
  q, k, v = np.split(linear(x, p['qkv']), 3, axis=-1)
  return linear(attend(q, k, v, heads), p['proj'])


def mlp(x, p):
  x = linear(x, p['fc1'])
  return linear(0.5 * x * (1 + erf(x / math.sqrt(2))), p['fc2'])


def blocks(x, params, heads, *, post_norm=False, eps=1e-6):
  """One sample [N, D] through the stacked layers of `transformer.Blocks`."""
  layers = params['layers']
  for n in range(len(layers['norm1']['scale'])):
    p = jax.tree.map(lambda a, n=n: a[n], layers)
    if post_norm:
      x = norm(x + attention(x, p['attn'], heads), p['norm1'], eps)
      x = norm(x + mlp(x, p['mlp']), p['norm2'], eps)
    else:
      x = x + attention(norm(x, p['norm1'], eps), p['attn'], heads)
      x = x + mlp(norm(x, p['norm2'], eps), p['mlp'])
  return x
