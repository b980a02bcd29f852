"""Writes families/: small networks under their official names on disk.

FAMILY.npz: weights, an input and outputs. names.json: of more networks, the
names and shapes alone.

Needs torch, timm and transformers, which nothing else here needs:
  python tests/golden/make_families.py

All parameters are perturbed, biases, norms and positions too: at its random
start a swapped bias or norm would not show. The networks run in float64.
"""

import json
import pathlib
import tempfile

import numpy as np
import timm
import torch
import transformers
from safetensors.numpy import load_file

FOLDER = pathlib.Path(__file__).with_name('families')
SIDE, PATCH, WORDS, LENGTH = 24, 8, 50, 7
WIDTHS = dict(
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=48,
)
VISION = WIDTHS | dict(image_size=SIDE, patch_size=PATCH)
TEXT = WIDTHS | dict(vocab_size=WORDS, max_position_embeddings=9)
END = WORDS - 1


def timm_vit():
  return timm.models.VisionTransformer(
    img_size=SIDE,
    patch_size=PATCH,
    embed_dim=32,
    depth=2,
    num_heads=2,
    mlp_ratio=1.5,
    num_classes=5,
    init_values=0.1,
  )


def timm_convnext():
  return timm.models.ConvNeXt(
    depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=5
  )


def clip_text():
  config = transformers.CLIPTextConfig(
    **TEXT, projection_dim=12, bos_token_id=1, eos_token_id=END
  )
  return transformers.CLIPTextModelWithProjection(config)


# DINOv2's hidden width is a multiple of the width.
DINO = dict(VISION, mlp_ratio=2)
NETWORKS = {
  'timm_vit': timm_vit,
  'timm_convnext': timm_convnext,
  'hf_vit': lambda: transformers.ViTForImageClassification(
    transformers.ViTConfig(**VISION, num_labels=5)
  ),
  'hf_dinov2': lambda: transformers.Dinov2Model(
    transformers.Dinov2Config(**DINO)
  ),
  'hf_siglip': lambda: transformers.SiglipVisionModel(
    transformers.SiglipVisionConfig(**VISION)
  ),
  'hf_bert': lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
  'hf_clip_text': clip_text,
}


TOWERS = dict(vision_config=VISION, text_config=TEXT)
# name -> family, network
NAMED = {
  'timm_vit_avg': (
    'timm_vit',
    lambda: timm.models.VisionTransformer(
      img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=2, num_heads=2,
      num_classes=5, class_token=False, global_pool='avg',
    ),
  ),
  'timm_vit_siglip': (
    'timm_vit',
    lambda: timm.models.VisionTransformer(
      img_size=SIDE, patch_size=PATCH, embed_dim=32, depth=2, num_heads=2,
      num_classes=0, class_token=False, global_pool='map',
    ),
  ),
  'hf_vit_pooler': (
    'hf_vit',
    lambda: transformers.ViTModel(transformers.ViTConfig(**VISION)),
  ),
  'hf_vitmae': (
    'hf_vitmae',
    lambda: transformers.ViTMAEForPreTraining(
      transformers.ViTMAEConfig(**VISION, decoder_hidden_size=16,
                                decoder_num_hidden_layers=1,
                                decoder_num_attention_heads=2)
    ),
  ),
  'hf_dinov2_classifier': (
    'hf_dinov2',
    lambda: transformers.Dinov2ForImageClassification(
      transformers.Dinov2Config(**DINO, num_labels=5)
    ),
  ),
  'hf_siglip_both': (
    'hf_siglip',
    lambda: transformers.SiglipModel(transformers.SiglipConfig(**TOWERS)),
  ),
  'hf_bert_pretraining': (
    'hf_bert',
    lambda: transformers.BertForPreTraining(transformers.BertConfig(**TEXT)),
  ),
  'hf_clip_both': (
    'hf_clip_text',
    lambda: transformers.CLIPModel(
      transformers.CLIPConfig(**TOWERS, projection_dim=12)
    ),
  ),
}  # fmt: skip


@torch.no_grad()
def perturbed(network, seed: int):
  generator = torch.Generator().manual_seed(seed)
  for parameter in network.parameters():
    noise = torch.randn(parameter.shape, generator=generator)
    parameter.add_(0.2 * noise)
  return network.eval()


def on_disk(network) -> dict[str, np.ndarray]:
  """The arrays as a file of the network has them."""
  if not hasattr(network, 'save_pretrained'):
    return {k: x.numpy() for k, x in network.state_dict().items()}
  with tempfile.TemporaryDirectory() as folder:
    network.save_pretrained(folder)
    return load_file(f'{folder}/model.safetensors')


def texts() -> np.ndarray:
  """Two texts, int32: words, their end, padding."""
  ids = np.random.default_rng(1).integers(1, END, (2, LENGTH))
  ids[0, 4:], ids[1, 6:] = 0, 0
  ids[0, 4], ids[1, 6] = END, END
  return ids.astype(np.int32)


@torch.no_grad()
def outputs(family: str, network, entered: np.ndarray) -> dict:
  """Named outputs in float64."""
  network = network.double()
  if entered.ndim == 2:
    ids = torch.from_numpy(entered).long()
    mask = None if family == 'hf_clip_text' else (ids > 0).long()
    found = network(input_ids=ids, attention_mask=mask)
    key = 'text_embeds' if family == 'hf_clip_text' else 'pooler_output'
    return {'pooled': found[key].numpy()}
  image = torch.from_numpy(entered.transpose(0, 3, 1, 2).copy()).double()
  if family == 'hf_vit':
    tokens = network.vit(image).last_hidden_state
    found = {'tokens': tokens, 'logits': network(image).logits}
  elif family.startswith('hf'):
    result = network(image)
    found = {'tokens': result.last_hidden_state, 'pooled': result.pooler_output}
  else:
    tokens = network.forward_features(image)
    if family == 'timm_convnext':
      tokens = tokens.flatten(2).transpose(1, 2)
    found = {'tokens': tokens, 'logits': network(image)}
  return {name: x.numpy() for name, x in found.items()}


def write_names() -> None:
  named = {}
  for name, (family, make) in NAMED.items():
    arrays = sorted(on_disk(make()).items())
    shapes = {key: ' '.join(map(str, x.shape)) for key, x in arrays}
    named[name] = {'family': family, 'shapes': shapes}
  path = FOLDER / 'names.json'
  path.write_text(json.dumps(named, indent=0) + '\n')


def main() -> None:
  FOLDER.mkdir(exist_ok=True)
  write_names()
  for seed, (family, make) in enumerate(NETWORKS.items()):
    torch.manual_seed(seed)
    network = perturbed(make(), seed)
    side = 64 if family == 'timm_convnext' else SIDE
    entered = np.random.default_rng(0).normal(size=(2, side, side, 3))
    entered = entered.astype(np.float16).astype(np.float32)
    if family in ('hf_bert', 'hf_clip_text'):
      entered = texts()
    weights = {f'weights/{k}': x for k, x in on_disk(network).items()}
    path = FOLDER / f'{family}.npz'
    found = outputs(family, network, entered)
    np.savez_compressed(path, input=entered, **found, **weights)
    print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
