"""Writes models.npz: small networks of timm and transformers, as arrays.

Needs torch, timm and transformers, which nothing else here needs:
  python tests/golden/make_models.py

Each network is kept as NAME/params/..., under the names and in the layouts of
m3i_jax, NAME/input, and NAME/... of its outputs. All parameters are perturbed:
at its random start a swapped bias or norm would not show. Outputs are computed
in float64.
"""

import functools
import pathlib

import numpy as np
import torch
import transformers
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn

Arrays = dict[str, np.ndarray]
SIZES = dict(
  hidden_size=16, intermediate_size=24, num_hidden_layers=2,
  num_attention_heads=4,
)  # fmt: skip
TEXT = dict(vocab_size=30, max_position_embeddings=9)


def perturbed(model: nn.Module) -> nn.Module:
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for x in model.parameters():
      x.add_(0.1 * torch.randn(x.shape, generator=generator))
  return model.eval().double()


def linear(module: nn.Module) -> Arrays:
  found = {'kernel': module.weight.T}
  return found if module.bias is None else found | {'bias': module.bias}


def norm(module: nn.Module) -> Arrays:
  return {'scale': module.weight, 'bias': module.bias}


def conv(module: nn.Module) -> Arrays:
  return {'kernel': module.weight.permute(2, 3, 1, 0), 'bias': module.bias}


def mlp(module: nn.Module) -> Arrays:
  return under('fc1', linear(module.fc1)) | under('fc2', linear(module.fc2))


def under(name: str, tree: Arrays) -> Arrays:
  return {f'{name}/{key}': value for key, value in tree.items()}


def merged(**parts: Arrays) -> Arrays:
  """Each part under its name; '__' is '/'."""
  found = {}
  for name, part in parts.items():
    found |= under(name.replace('__', '/'), part)
  return found


def stacked(trees: list[Arrays]) -> Arrays:
  return {k: torch.stack([tree[k] for tree in trees]) for k in trees[0]}


def joined(*modules: nn.Module) -> Arrays:
  """Linear maps of one input as one map."""
  return {
    'kernel': torch.cat([m.weight for m in modules]).T,
    'bias': torch.cat([m.bias for m in modules]),
  }


def image(side: int) -> np.ndarray:
  x = np.random.default_rng(0).normal(size=(2, side, side, 3))
  return x.astype(np.float16)


def nchw(x: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)


def convnext() -> Arrays:
  """timm's ConvNeXt: each stage's map, and the logits."""
  depths, dims = (1, 2, 3, 1), (8, 12, 16, 20)
  model = ConvNeXt(depths=depths, dims=dims, num_classes=5, ls_init_value=0.5)
  perturbed(model)
  parts = {
    'stem': merged(conv=conv(model.stem[0]), norm=norm(model.stem[1])),
    'norm': norm(model.head.norm),
    'head': linear(model.head.fc),
  }
  maps, pixels = {}, image(64)[:1]
  x = model.stem(nchw(pixels))
  for n, stage in enumerate(model.stages):
    if n:
      parts[f'stages_{n}__downsample'] = merged(
        norm=norm(stage.downsample[0]), conv=conv(stage.downsample[1])
      )
    blocks = [
      merged(conv_dw=conv(b.conv_dw), norm=norm(b.norm), mlp=mlp(b.mlp))
      | {'gamma': b.gamma}
      for b in stage.blocks
    ]
    parts[f'stages_{n}__blocks'] = stacked(blocks)
    x = stage(x)
    maps[f'stage{n}'] = x.permute(0, 2, 3, 1)
  found = {'input': pixels, 'logits': model(nchw(pixels))}
  return under('params', merged(**parts)) | maps | found


def scaled_vit() -> Arrays:
  """timm's ViT with layer scale, tanh's GELU, and another eps."""
  model = VisionTransformer(
    img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=4,
    mlp_ratio=1.5, init_values=0.5, act_layer='gelu_tanh', num_classes=5,
    norm_layer=functools.partial(nn.LayerNorm, eps=1e-3),
  )  # fmt: skip
  perturbed(model)
  blocks = [
    merged(
      norm1=norm(b.norm1), attn__qkv=linear(b.attn.qkv),
      attn__proj=linear(b.attn.proj), norm2=norm(b.norm2), mlp=mlp(b.mlp),
      ls1=dict(gamma=b.ls1.gamma), ls2=dict(gamma=b.ls2.gamma),
    )
    for b in model.blocks
  ]  # fmt: skip
  params = merged(
    patch_embed__proj=conv(model.patch_embed.proj),
    blocks__layers=stacked(blocks), norm=norm(model.norm),
    head=linear(model.head),
  )  # fmt: skip
  params |= dict(cls_token=model.cls_token, pos_embed=model.pos_embed)
  x = nchw(image(16))
  found = {'tokens': model.forward_features(x), 'logits': model(x)}
  return under('params', params) | {'input': image(16)} | found


def hf_block(layer: nn.Module) -> Arrays:
  """CLIP's and SigLIP's layers."""
  look = layer.self_attn
  return merged(
    norm1=norm(layer.layer_norm1), norm2=norm(layer.layer_norm2),
    attn__qkv=joined(look.q_proj, look.k_proj, look.v_proj),
    attn__proj=linear(look.out_proj), mlp=mlp(layer.mlp),
  )  # fmt: skip


def siglip() -> Arrays:
  """SigLIP's vision tower with its attention pooling."""
  config = transformers.SiglipVisionConfig(
    image_size=16, patch_size=8, hidden_act='gelu_pytorch_tanh', **SIZES
  )
  model = perturbed(transformers.SiglipVisionModel(config))
  place, head = model.embeddings, model.head
  q, kv = torch.tensor_split(head.attention.in_proj_weight, [16])
  q_bias, kv_bias = torch.tensor_split(head.attention.in_proj_bias, [16])
  params = merged(
    patch_embed__proj=conv(place.patch_embedding),
    blocks__layers=stacked([hf_block(b) for b in model.encoder.layers]),
    norm=norm(model.post_layernorm),
    attn_pool__q=dict(kernel=q.T, bias=q_bias),
    attn_pool__kv=dict(kernel=kv.T, bias=kv_bias),
    attn_pool__proj=linear(head.attention.out_proj),
    attn_pool__norm=norm(head.layernorm),
    attn_pool__mlp=mlp(head.mlp),
  )
  params |= {
    'attn_pool/probe': head.probe,
    'pos_embed': place.position_embedding.weight[None],
  }
  out = model(nchw(image(16)))
  found = {'tokens': out.last_hidden_state, 'pooled': out.pooler_output}
  return under('params', params) | {'input': image(16)} | found


def clip_text() -> Arrays:
  """CLIP's text tower; id 0 is a token like others, 29 the end of text."""
  config = transformers.CLIPTextConfig(
    projection_dim=12, hidden_act='quick_gelu', eos_token_id=29, **SIZES, **TEXT
  )
  model = perturbed(transformers.CLIPTextModelWithProjection(config))
  tower = model.text_model
  params = merged(
    blocks__layers=stacked([hf_block(b) for b in tower.encoder.layers]),
    final_norm=norm(tower.final_layer_norm),
    projection=linear(model.text_projection),
  )
  params |= {
    'word': tower.embeddings.token_embedding.weight,
    'position': tower.embeddings.position_embedding.weight,
  }
  text = np.array([[28, 3, 0, 7, 29, 0, 0], [28, 9, 4, 4, 1, 2, 29]])
  found = {'input': text, 'projected': model(torch.tensor(text)).text_embeds}
  return under('params', params) | found


def bert() -> Arrays:
  """BERT with its pooler."""
  model = transformers.BertModel(transformers.BertConfig(**SIZES, **TEXT))
  perturbed(model)

  def block(layer):
    look, out = layer.attention.self, layer.attention.output
    return merged(
      attn__qkv=joined(look.query, look.key, look.value),
      attn__proj=linear(out.dense), norm1=norm(out.LayerNorm),
      mlp__fc1=linear(layer.intermediate.dense),
      mlp__fc2=linear(layer.output.dense), norm2=norm(layer.output.LayerNorm),
    )  # fmt: skip

  place = model.embeddings
  params = merged(
    blocks__layers=stacked([block(b) for b in model.encoder.layer]),
    norm=norm(place.LayerNorm),
    pooler=linear(model.pooler.dense),
  ) | {
    'word': place.word_embeddings.weight,
    'position': place.position_embeddings.weight,
    'type': place.token_type_embeddings.weight,
  }
  text = torch.tensor([[2, 7, 9, 9, 12, 3], [2, 5, 3, 0, 0, 0]])
  out = model(text, attention_mask=text > 0)
  found = {'input': text, 'first': out.last_hidden_state[:, 0]}
  return under('params', params) | found | {'pooled': out.pooler_output}


@torch.no_grad()
def main() -> None:
  arrays = {}
  for make in (convnext, scaled_vit, siglip, clip_text, bert):
    torch.manual_seed(0)
    arrays |= under(make.__name__, make())
  for name, x in arrays.items():
    x = x.numpy() if torch.is_tensor(x) else x
    if x.dtype == np.float64:
      x = x.astype(np.float32)
    arrays[name] = np.int32(x) if x.dtype == np.int64 else x
  path = pathlib.Path(__file__).with_name('models.npz')
  np.savez_compressed(path, **arrays)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
