"""Writes clip.npz: the loss of a small CLIP of transformers, as arrays.

Needs torch and transformers, which nothing else here needs:
  python tests/golden/make_clip.py

Features are those of the two projections, before CLIPModel divides them by
their norms: the gradient kept is to these.
"""

import pathlib

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

BATCH, SIDE, LENGTH, VOCABULARY = 6, 16, 7, 30
LAYERS = dict(num_hidden_layers=2, num_attention_heads=2)
CONFIG = CLIPConfig(
  vision_config=dict(
    image_size=SIDE, patch_size=4, hidden_size=24, intermediate_size=40,
    **LAYERS,
  ),
  text_config=dict(
    vocab_size=VOCABULARY, max_position_embeddings=LENGTH, hidden_size=20,
    intermediate_size=36, bos_token_id=0, eos_token_id=VOCABULARY - 1,
    **LAYERS,
  ),
  projection_dim=12,
)  # fmt: skip


def perturbed_model() -> CLIPModel:
  torch.manual_seed(0)
  model = CLIPModel(CONFIG).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model.double()


def keep_output(module: torch.nn.Module) -> list[torch.Tensor]:
  """Where the module's next output, with its gradient, will be found."""
  kept = []

  def hook(module, inputs, output):
    output.retain_grad()
    kept.append(output)

  module.register_forward_hook(hook)
  return kept


def main() -> None:
  rng = np.random.default_rng(0)
  pixels = torch.from_numpy(rng.normal(size=(BATCH, 3, SIDE, SIDE)))
  text = rng.integers(1, VOCABULARY - 1, (BATCH, LENGTH))
  text[:, -1] = VOCABULARY - 1
  model = perturbed_model()
  kept = {
    'image': keep_output(model.visual_projection),
    'text': keep_output(model.text_projection),
  }
  found = model(torch.from_numpy(text), pixels, return_loss=True)
  found.loss.backward()
  arrays = {}
  for name, (features,) in kept.items():
    arrays[name] = features.detach().numpy()
    arrays[f'gradients/{name}'] = features.grad.numpy()
  path = pathlib.Path(__file__).with_name('clip.npz')
  np.savez_compressed(
    path,
    logit_scale=model.logit_scale.item(),
    loss=found.loss.item(),
    logits_per_image=found.logits_per_image.detach().numpy(),
    **arrays,
    **{'gradients/logit_scale': model.logit_scale.grad.item()},
  )
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
