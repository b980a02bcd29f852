"""Arrays under their official names, of the files in tests/golden/families."""

import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'families'


def golden(family):
  """(official arrays, the others by name)."""
  with np.load(FOLDER / f'{family}.npz') as file:
    arrays = dict(file)
  official = {
    k.removeprefix('weights/'): x for k, x in arrays.items() if '/' in k
  }
  return official, {k: x for k, x in arrays.items() if '/' not in k}


def listed():
  """name -> (family, {official name: shape})."""
  found = {}
  for file in ('names.json', 'internimage.json'):
    for name, told in json.loads((FOLDER / file).read_text()).items():
      shapes = {
        key: tuple(map(int, shape.split()))
        for key, shape in told['shapes'].items()
      }
      found[name] = told['family'], shapes
  family, shapes = found['internimage_t']
  # S: norms after the branches, hence none at the end of a level, and scales.
  scales = {
    key.replace('norm1.0.weight', name): shape
    for key, shape in shapes.items()
    for name in ('gamma1', 'gamma2')
    if key.endswith('.norm1.0.weight') and '.blocks.' in key
  }
  ends = tuple(f'levels.{s}.norm.' for s in range(4))
  inner = {k: x for k, x in shapes.items() if not k.startswith(ends)}
  found['internimage_s'] = family, inner | scales
  family, shapes = found['internimage_h']
  head = ('clip_projector.', 'fc_norm.', 'head.')
  inner = {k: x for k, x in shapes.items() if not k.startswith(head)}
  found['internimage_fused'] = family, inner
  return found


LISTED = listed()


def drawn(shapes, seed=0):
  """Arrays of these shapes, any two of them different."""
  rng = np.random.default_rng(seed)
  draw = lambda shape: rng.normal(size=shape).astype(np.float32)
  return {
    name: np.int64(seed + 123_456).reshape(())
    if name.endswith('num_batches_tracked')
    else draw(shape)
    for name, shape in shapes.items()
  }
