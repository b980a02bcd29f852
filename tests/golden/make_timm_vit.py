"""Writes timm_vit.npz and timm_vit_avg.npz: small timm ViTs, as arrays.

Needs torch and timm, which nothing else here needs:
  python tests/golden/make_timm_vit.py

All parameters are perturbed, biases, norms and positions too: at its random
start a swapped bias or norm would not show.
"""

import pathlib

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

SIZES = dict(
  img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=10
)
VARIANTS = {
  'timm_vit': dict(class_token=True, global_pool='token'),
  'timm_vit_avg': dict(class_token=False, global_pool='avg'),
}


def perturbed_model(variant: str, seed: int) -> VisionTransformer:
  torch.manual_seed(seed)
  model = VisionTransformer(**SIZES, **VARIANTS[variant]).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


@torch.no_grad()
def activations(
  model: VisionTransformer, image: np.ndarray
) -> dict[str, np.ndarray]:
  """Outputs of each block, after the norm, and of the head. image [B,S,S,3]."""
  found = {}

  def keep(name):
    def hook(module, inputs, output):
      found[name] = output.numpy()

    return hook

  for index, block in enumerate(model.blocks):
    block.register_forward_hook(keep(f'block{index}'))
  model.norm.register_forward_hook(keep('tokens'))
  model.fc_norm.register_forward_hook(keep('pooled'))
  nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
  found['logits'] = model(nchw).numpy()
  return found


def main() -> None:
  image = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
  image = image.astype(np.float32)
  for seed, variant in enumerate(VARIANTS):
    model = perturbed_model(variant, seed)
    weights = {
      f'weights/{name}': weight.numpy()
      for name, weight in model.state_dict().items()
    }
    path = pathlib.Path(__file__).with_name(f'{variant}.npz')
    np.savez_compressed(
      path, input=image, **activations(model, image), **weights
    )
    print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
