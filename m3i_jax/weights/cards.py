"""config.json of other projects, for a network of ours."""

from collections.abc import Mapping
from typing import Any

from m3i_jax import views

Config = dict[str, Any]

HF_ACTIVATION = {'gelu_tanh': 'gelu_pytorch_tanh'}


def card(family: str, net: Any, size: int, params: Mapping) -> Config:
  """config.json for a network of ours.

  Args:
    net: its module.
    size: of its pictures, in pixels.
    params: as they are exported.
  """
  return CARDS[family](net, size, params)


def preprocessor(size: int) -> Config:
  """preprocessor_config.json: pictures as this package normalises them."""
  return dict(
    image_processor_type='ViTImageProcessor',
    do_resize=True,
    size=dict(height=size, width=size),
    resample=3,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=_listed(views.MEAN),
    image_std=_listed(views.STD),
  )


def _listed(x) -> list[float]:
  return [round(float(v), 6) for v in x]


def _timm(
  net, size: int, architecture: str, pool: str, args: Config, ends: Config
) -> Config:
  """ends: the first convolution and the classifier, by name.

  timm changes them to what is asked of it: `num_classes`, `in_chans`.
  """
  features = getattr(net, 'dims', (net.width,))[-1]
  return dict(
    architecture=architecture,
    num_classes=net.num_classes,
    num_features=features,
    global_pool=pool,
    model_args=args,
    pretrained_cfg=dict(
      input_size=[3, size, size],
      mean=_listed(views.MEAN),
      std=_listed(views.STD),
      interpolation='bicubic',
      crop_pct=1.0,
      num_classes=net.num_classes,
      **ends,
    ),
  )


def _timm_vit(net, size: int, params: Mapping) -> Config:
  pool = {'cls': 'token', 'map': 'map'}.get(net.pooling, 'avg')
  args = dict(
    img_size=size, patch_size=net.patch, embed_dim=net.width, depth=net.depth,
    num_heads=net.heads, mlp_ratio=net.hidden / net.width,
    class_token=net.class_token, global_pool=pool,
  )  # fmt: skip
  if pool == 'avg':
    # timm puts the norm behind the pooling, unless it is told not to.
    args['fc_norm'] = net.pooling == 'mean' and not net.final_norm
    args['final_norm'] = net.final_norm or args['fc_norm']
  elif not net.final_norm:
    args['final_norm'] = False
  if net.layer_scale:
    args['init_values'] = net.layer_scale
  if net.activation != 'gelu':
    args['act_layer'] = net.activation
  ends = dict(first_conv='patch_embed.proj', classifier='head')
  return _timm(net, size, 'vit_base_patch16_224', pool, args, ends)


def _timm_convnext(net, size: int, params: Mapping) -> Config:
  args = dict(
    depths=list(net.depths), dims=list(net.dims), ls_init_value=net.layer_scale
  )
  ends = dict(first_conv='stem.0', classifier='head.fc')
  return _timm(net, size, 'convnext_tiny', 'avg', args, ends)


def _hf(net, kind: str, architecture: str, **more: Any) -> Config:
  return dict(
    architectures=[architecture],
    model_type=kind,
    hidden_size=net.width,
    num_hidden_layers=net.depth,
    num_attention_heads=net.heads,
    hidden_act=HF_ACTIVATION.get(net.activation, net.activation),
    layer_norm_eps=net.eps,
    torch_dtype='float32',
  ) | more


def _hf_image(net, size: int, kind: str, architecture: str, **more) -> Config:
  sizes = dict(image_size=size, patch_size=net.patch, num_channels=3)
  return _hf(net, kind, architecture, **sizes, **more)


def _hf_vit(net, size: int, params: Mapping) -> Config:
  more = dict(intermediate_size=net.hidden, qkv_bias=True)
  if 'head' not in params:
    return _hf_image(net, size, 'vit', 'ViTModel', **more)
  labels = {str(i): f'LABEL_{i}' for i in range(net.num_classes)}
  more |= dict(id2label=labels, label2id={v: int(k) for k, v in labels.items()})
  return _hf_image(net, size, 'vit', 'ViTForImageClassification', **more)


def _hf_vitmae(net, size: int, params: Mapping) -> Config:
  return _hf_image(
    net, size, 'vit_mae', 'ViTMAEModel', intermediate_size=net.hidden,
    qkv_bias=True, mask_ratio=0.0,
  )  # fmt: skip


def _hf_dinov2(net, size: int, params: Mapping) -> Config:
  return _hf_image(
    net, size, 'dinov2', 'Dinov2Model', mlp_ratio=net.hidden // net.width,
    qkv_bias=True, layerscale_value=net.layer_scale or 1.0,
    use_swiglu_ffn=False, use_mask_token='mask_token' in params,
  )  # fmt: skip


def _hf_siglip(net, size: int, params: Mapping) -> Config:
  return _hf_image(
    net, size, 'siglip_vision_model', 'SiglipVisionModel',
    intermediate_size=net.hidden, vision_use_head='attn_pool' in params,
  )  # fmt: skip


def _hf_text(net, kind: str, architecture: str, **more: Any) -> Config:
  return _hf(
    net, kind, architecture, intermediate_size=net.hidden,
    vocab_size=net.vocabulary, max_position_embeddings=net.positions, **more,
  )  # fmt: skip


def _hf_bert(net, size: int, params: Mapping) -> Config:
  return _hf_text(net, 'bert', 'BertModel', type_vocab_size=2, pad_token_id=0)


def _hf_clip_text(net, size: int, params: Mapping) -> Config:
  return _hf_text(
    net, 'clip_text_model', 'CLIPTextModelWithProjection',
    projection_dim=net.projection, pad_token_id=0,
    bos_token_id=net.vocabulary - 2, eos_token_id=net.vocabulary - 1,
  )  # fmt: skip


def _arguments(net, size: int, params: Mapping) -> Config:
  """Of the constructor of MAE's, and of Detectron2's, ViT."""
  return dict(
    img_size=size, patch_size=net.patch, embed_dim=net.width, depth=net.depth,
    num_heads=net.heads, mlp_ratio=net.hidden / net.width,
  )  # fmt: skip


def _detectron2(net, size: int, params: Mapping) -> Config:
  told = _arguments(net, size, params)
  return told | dict(
    img_size=1024, pretrain_img_size=size,
    pretrain_use_cls_token=net.class_token,
  )  # fmt: skip


def _mmseg(net, size: int, params: Mapping) -> Config:
  return dict(
    type='mmseg.MAE', img_size=[size, size], patch_size=net.patch,
    embed_dims=net.width, num_layers=net.depth, num_heads=net.heads,
    mlp_ratio=net.hidden / net.width, init_values=net.layer_scale or None,
  )  # fmt: skip


def _internimage(net, size: int, params: Mapping) -> Config:
  """The arguments of the official constructor."""
  names = (
    'channels', 'depths', 'groups', 'num_classes', 'mlp_ratio', 'offset_scale',
    'layer_scale', 'post_norm', 'dw_kernel_size', 'use_clip_projector',
    'level2_post_norm', 'level2_post_norm_block_ids', 'res_post_norm',
    'center_feature_scale', 'remove_center',
  )  # fmt: skip
  told = {name: getattr(net, name) for name in names if hasattr(net, name)}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in told.items()}


CARDS = {
  'timm_vit': _timm_vit,
  'timm_convnext': _timm_convnext,
  'mae': _arguments,
  'hf_vit': _hf_vit,
  'hf_vitmae': _hf_vitmae,
  'hf_dinov2': _hf_dinov2,
  'hf_siglip': _hf_siglip,
  'hf_bert': _hf_bert,
  'hf_clip_text': _hf_clip_text,
  'internimage': _internimage,
  'detectron2': _detectron2,
  'mmseg': _mmseg,
}
