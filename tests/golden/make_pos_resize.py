"""Writes pos_resize.npz: timm's resize of a table of positions.

Needs torch and timm, which nothing else here needs:
  python tests/golden/make_pos_resize.py
"""

import pathlib

import numpy as np
import torch
from timm.layers import resample_abs_pos_embed

SIDES = (3, 4, 7, 16)


def main() -> None:
  torch.manual_seed(0)
  table = torch.randn(1, 1 + 7 * 7, 6)
  arrays = {'table': table.numpy()}
  for side in SIDES:
    for prefix in (0, 1):
      resized = resample_abs_pos_embed(
        table[:, 1 - prefix :], [side, side], num_prefix_tokens=prefix
      )
      arrays[f'{prefix}/{side}'] = resized.numpy()
  path = pathlib.Path(__file__).with_name('pos_resize.npz')
  np.savez_compressed(path, **arrays)


if __name__ == '__main__':
  main()
