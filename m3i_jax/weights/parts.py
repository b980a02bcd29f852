"""Rules of the parts that all families are made of."""

from collections.abc import Mapping
from typing import Any

from m3i_jax.errors import UserError
from m3i_jax.weights.layouts import CONV, LINEAR, QKV, QKV_BIAS, VECTOR
from m3i_jax.weights.rules import Rule

Rules = tuple[Rule, ...]
LAYERS = 'blocks/layers'


def one(name: str, path: str, shape: str, layout, group: str = '') -> Rules:
  """A parameter of one name."""
  return (Rule((name,), (path,), (shape,), layout, group),)


def linear(
  name: str, path: str, out: str, into: str, group: str = ''
) -> Rules:
  """`name`.weight [out, into] and .bias."""
  return one(
    f'{name}.weight', f'{path}/kernel', f'{out} {into}', LINEAR, group
  ) + one(f'{name}.bias', f'{path}/bias', out, VECTOR, group)


def norm(name: str, path: str, width: str, group: str = '') -> Rules:
  """`name`.weight and .bias, ours scale and bias."""
  return one(f'{name}.weight', f'{path}/scale', width, VECTOR, group) + one(
    f'{name}.bias', f'{path}/bias', width, VECTOR, group
  )


def conv(
  name: str, path: str, shape: str, group: str = '', bias: bool = True
) -> Rules:
  """`name`.weight of the shape [out, in, h, w] and .bias."""
  kernel = one(f'{name}.weight', f'{path}/kernel', shape, CONV, group)
  if not bias:
    return kernel
  out = shape.split()[0]
  return kernel + one(f'{name}.bias', f'{path}/bias', out, VECTOR, group)


def qkv(names: tuple[str, str, str], path: str) -> Rules:
  """Three linear maps [D, D] that are one of ours."""
  weights = tuple(f'{name}.weight' for name in names)
  biases = tuple(f'{name}.bias' for name in names)
  return (
    Rule(weights, (f'{path}/kernel',), ('D D',) * 3, QKV),
    Rule(biases, (f'{path}/bias',), ('D',) * 3, QKV_BIAS),
  )

def block(
  stack: str,
  attention: str | tuple[str, str, str],
  proj: str,
  norms: tuple[str, str],
  mlp: tuple[str, str],
) -> Rules:
  """A transformer's layers; `attention` names q, k and v, or all in one."""
  at = lambda name: f'{stack}.{{n}}.{name}'
  if isinstance(attention, str):
    into = linear(at(attention), f'{LAYERS}/attn/qkv', '3D', 'D')
  else:
    into = qkv(tuple(map(at, attention)), f'{LAYERS}/attn/qkv')
  return (
    *norm(at(norms[0]), f'{LAYERS}/norm1', 'D'),
    *into,
    *linear(at(proj), f'{LAYERS}/attn/proj', 'D', 'D'),
    *norm(at(norms[1]), f'{LAYERS}/norm2', 'D'),
    *linear(at(mlp[0]), f'{LAYERS}/mlp/fc1', 'M', 'D'),
    *linear(at(mlp[1]), f'{LAYERS}/mlp/fc2', 'D', 'M'),
  )


def scales(stack: str, first: str, second: str) -> Rules:
  """LayerScale of both branches of a transformer's layers."""
  first, second = (f'{stack}.{{n}}.{name}' for name in (first, second))
  return (
    *one(first, f'{LAYERS}/ls1/gamma', 'D', VECTOR, 'scale'),
    *one(second, f'{LAYERS}/ls2/gamma', 'D', VECTOR, 'scale'),
  )


def heads(width: int, given: Mapping[str, Any]) -> int:
  """Attention heads, 64 wide as in most nets.

  Raises:
    UserError: `given` has none, and `width` is no multiple of 64.
  """
  found = given.get('heads') or width // 64
  if not found or width % found or (width % 64 and 'heads' not in given):
    raise UserError(
      f'how many heads a width of {width} has, shapes do not tell: give heads'
    )
  return found
