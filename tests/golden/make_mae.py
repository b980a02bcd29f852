"""Writes mae.npz: a small masked auto-encoder of transformers, as arrays.

Needs torch and transformers, which nothing else here needs:
  python tests/golden/make_mae.py

The parameters are float32 and perturbed, so that no bias is zero and no norm
is one; the model then runs in float64. Only the decoder's position table is
left as it is, since it is no parameter of the method.
"""

import pathlib

import numpy as np
import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

BATCH, SIDE, PATCH = 3, 20, 4
CONFIG = ViTMAEConfig(
  image_size=SIDE,
  patch_size=PATCH,
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=40,
  decoder_hidden_size=32,
  decoder_num_hidden_layers=2,
  decoder_num_attention_heads=4,
  decoder_intermediate_size=56,
  mask_ratio=0.75,
  norm_pix_loss=True,
  layer_norm_eps=1e-6,  # of the original; the class has 1e-12
)
TABLE = 'decoder.decoder_pos_embed'
GRADIENTS = (
  'vit.embeddings.patch_embeddings.projection.weight',
  'vit.layers.0.attention.k_proj.weight',
  'decoder.decoder_embed.weight',
  'decoder.decoder_layers.1.mlp.fc1.weight',
)


def perturbed_model() -> ViTMAEForPreTraining:
  """float64, but of float32 numbers."""
  torch.manual_seed(0)
  model = ViTMAEForPreTraining(CONFIG).eval()
  # The constructor leaves the decoder's table at zero; a released model has it.
  model.decoder.initialize_weights((SIDE // PATCH) ** 2)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if name != TABLE:
        parameter.add_(0.1 * torch.randn_like(parameter))
  return model.double()


def main() -> None:
  rng = np.random.default_rng(0)
  image = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)
  noise = rng.random((BATCH, (SIDE // PATCH) ** 2))
  model = perturbed_model()
  weights = {
    f'weights/{name}': weight.float().numpy()
    for name, weight in model.state_dict().items()
  }
  nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).double()
  found = model(nchw, noise=torch.from_numpy(noise))
  found.loss.backward()
  parameters = dict(model.named_parameters())
  gradients = {
    f'gradients/{name}': parameters[name].grad.numpy() for name in GRADIENTS
  }
  kept = int(noise.shape[1] * (1 - CONFIG.mask_ratio))
  path = pathlib.Path(__file__).with_name('mae.npz')
  np.savez_compressed(
    path,
    input=image,
    noise=noise,
    mask=found.mask.numpy().astype(bool),
    ids_keep=noise.argsort(1)[:, :kept].astype(np.int32),
    ids_restore=found.ids_restore.numpy().astype(np.int32),
    loss=found.loss.item(),
    logits=found.logits.detach().numpy(),
    **gradients,
    **weights,
  )
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
