"""An encoder's parameters under the names of other projects, and back.

Plain dicts of NumPy arrays: no file, no other framework.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from m3i_jax.errors import UserError
from m3i_jax.weights import checks, convnext, internimage, rules, text, vit

_FAMILIES = {
  family.name: family
  for module in (vit, text, convnext, internimage)
  for family in module.FAMILIES
}
FAMILIES = tuple(_FAMILIES)


def import_state(family: str, arrays: Mapping[str, np.ndarray]) -> dict:
  """Official arrays -> parameters.

  params = import_state('internimage', arrays)
  out = InternImage(**arguments).apply({'params': params}, image)

  gives 'logits', 'pyramid' and 'tokens'; `model_of` tells the arguments.

  Args:
    family: one of FAMILIES.
    arrays: all of a net, by official name, such as a state dict.
  Returns:
    Nested dict of contiguous float32 arrays, layers stacked. Leaves that no
    module of ours reads are kept for the way back: 'mask_token', a ViT's
    'pooler', 'cls_position'.
  Raises:
    UserError: a key is missing, unexpected, of a wrong shape or dtype, or not
      finite; what `left_out` lists is none of these.
  """
  kind, net = _checked(family, arrays)
  return traverse_util.unflatten_dict(rules.load(kind, arrays, net), sep='/')


def export_state(family: str, params: Mapping) -> dict[str, np.ndarray]:
  """Parameters -> arrays under official names, the inverse of `import_state`.

  Contiguous copies, of the dtype that they have (PyTorch's count of batches is
  int64). Names are those on disk; see `dropped` for what does not go along.

  Raises:
    UserError: a parameter is missing, has no place in such a net, or a wrong
      shape, or is not finite.
  """
  kind = _family(family)
  if not isinstance(params, Mapping):
    raise UserError(f'{family}: a {type(params).__name__} is given, not a dict')
  flat = traverse_util.flatten_dict(dict(params), sep='/')
  arrays = rules.dump(kind, flat)
  _checked(family, arrays)
  return arrays


def model_of(
  family: str, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any] = {}
) -> dict[str, Any]:
  """The fields of config.model, 'name' among them, that shapes tell.

  Args:
    given: fields that shapes cannot tell, such as heads; they go first.
  Raises:
    UserError: as `import_state`, or a field has to be given, has a value that
      no net has, or another one than the shapes tell.
  """
  kind, net = _checked(family, arrays, finite=False)
  checks.values(given)
  model = kind.model(net, given)
  checks.sizes(model, given)
  return model | dict(given)


def left_out(family: str, arrays: Mapping[str, Any]) -> tuple[str, ...]:
  """Keys that are known to the family but no part of the encoder."""
  return tuple(rules.read(_family(family), arrays).left_out)


def dropped(family: str, params: Mapping) -> tuple[str, ...]:
  """Paths of parameters that such a net does without when it is exported."""
  flat = traverse_util.flatten_dict(dict(params), sep='/')
  return tuple(rules.dropped(_family(family), flat))


def problems(family: str, arrays: Mapping[str, Any]) -> tuple[str, ...]:
  """All that `import_state` would refuse, a line for each key."""
  kind = _family(family)
  return tuple(checks.problems(kind, arrays, rules.read(kind, arrays)))


def _checked(
  family: str, arrays: Mapping[str, Any], finite: bool = True
) -> tuple[rules.Family, rules.Net]:
  kind = _family(family)
  if not isinstance(arrays, Mapping):
    raise UserError(
      f'{family}: a {type(arrays).__name__} is given, wanted is a dict of '
      'arrays by name'
    )
  net = rules.read(kind, arrays)
  lines = checks.problems(kind, arrays, net, finite)
  if lines:
    hint = _hint(arrays, net)
    raise UserError(f'{family}: {_told(net, lines)}{hint}')
  return kind, net


def _told(net: rules.Net, lines: list[str]) -> str:
  """The first key of each kind, and how many more there are."""
  if not net.absent and not net.unexpected:
    return lines[0] + rules.more(lines)
  kinds = {'missing': net.absent, 'unexpected': net.unexpected}
  return '; '.join(
    f'{keys[0]} is {kind}{rules.more(keys)}'
    for kind, keys in kinds.items()
    if keys
  )


def _hint(arrays: Mapping[str, Any], net: rules.Net) -> str:
  """Which families know all these keys, if not this one."""
  if not net.absent and not net.unexpected:
    return ''
  others = []
  for name in FAMILIES:
    other = rules.read(_FAMILIES[name], arrays)
    if not other.absent and not other.unexpected:
      others.append(name)
  return f'; it looks like family {" or ".join(others)}' if others else ''


def _family(name: str) -> rules.Family:
  if name not in _FAMILIES:
    raise UserError(f'no family {name!r}: choose from {", ".join(FAMILIES)}')
  return _FAMILIES[name]
