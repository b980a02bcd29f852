"""InternImage in NumPy, float64, by the released code's names of its weights.

Written from the paper and the release's formulas alone, one image position at a
time where that is simplest; nothing of m3i_jax is used.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def gelu(x):
  return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def norm(x, w, name):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * w[f'{name}.weight'] + w[f'{name}.bias']


def linear(x, w, name):
  y = x @ w[f'{name}.weight'].reshape(-1, x.shape[-1]).T
  return y + w.get(f'{name}.bias', 0.0)


def conv(x, kernel, bias, stride, pad, depthwise=False):
  """x [N, H, W, C] by PyTorch's kernel [out, in, k, k]."""
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  k = kernel.shape[-1]
  height = (x.shape[1] - k) // stride + 1
  width = (x.shape[2] - k) // stride + 1
  y = 0.0
  for i in range(k):
    for j in range(k):
      part = x[:, i : i + stride * height : stride,
               j : j + stride * width : stride]  # fmt: skip
      tap = kernel[:, :, i, j]
      y = y + (part * tap[:, 0] if depthwise else part @ tap.T)
  return y + bias


def dcnv3(value, offset, modulation, groups, scale):
  """value [N, H, W, C], kernel 3; x is slow among the points."""
  n, height, width, channels = value.shape
  v = value.reshape(n, height, width, groups, -1)
  offset = offset.reshape(n, height, width, groups, 9, 2)
  m = modulation.reshape(n, height, width, groups, 9)
  out = np.zeros_like(v)
  row, y, x, group = np.ogrid[:n, :height, :width, :groups]
  for p in range(9):
    px = x + scale * (p // 3 - 1 + offset[..., p, 0])
    py = y + scale * (p % 3 - 1 + offset[..., p, 1])
    for cy in (np.floor(py), np.floor(py) + 1):
      for cx in (np.floor(px), np.floor(px) + 1):
        weight = (1 - abs(py - cy)) * (1 - abs(px - cx)) * m[..., p]
        inside = (cy >= 0) & (cy < height) & (cx >= 0) & (cx < width)
        iy = np.clip(cy, 0, height - 1).astype(int)
        ix = np.clip(cx, 0, width - 1).astype(int)
        out += np.where(inside, weight, 0)[..., None] * v[row, iy, ix, group]
  return out.reshape(value.shape)


def dcn(x, w, name, groups, scale, center):
  kernel = w[f'{name}.dw_conv.0.weight']
  a = conv(
    x, kernel, w[f'{name}.dw_conv.0.bias'], 1, kernel.shape[-1] // 2, True
  )
  a = gelu(norm(a, w, f'{name}.dw_conv.1.1'))
  value = linear(x, w, f'{name}.input_proj')
  mask = linear(a, w, f'{name}.mask')
  mask = np.exp(mask.reshape(*mask.shape[:3], groups, 9))
  mask /= mask.sum(-1, keepdims=True)
  y = dcnv3(value, linear(a, w, f'{name}.offset'), mask, groups, scale)
  if center:
    at = f'{name}.center_feature_scale_proj'
    gate = 1 / (1 + np.exp(-(a @ w[f'{at}_weight'].T + w[f'{at}_bias'])))
    gate = np.repeat(gate, x.shape[-1] // groups, -1)
    y = y * (1 - gate) + value * gate
  return linear(y, w, f'{name}.output_proj')


def block(x, w, name, groups, c):
  mlp = lambda x: linear(gelu(linear(x, w, f'{name}.mlp.fc1')), w,
                         f'{name}.mlp.fc2')  # fmt: skip
  conv_ = lambda x: dcn(x, w, f'{name}.dcn', groups, c.get('offset_scale', 1),
                        c.get('center_feature_scale', False))  # fmt: skip
  for n, branch in ((1, conv_), (2, mlp)):
    first = f'{name}.norm{n}.0'
    if c.get('post_norm'):
      y = norm(branch(x), w, first)
    else:
      y = branch(norm(x, w, first))
    if c.get('layer_scale'):
      y = y * w[f'{name}.gamma{n}']
    elif c.get('res_post_norm') and not c.get('post_norm'):
      y = norm(y, w, f'{name}.res_post_norm{n}.0')
    x = x + y
  return x


def forward(x, w, c):
  """(logits, the four maps) of images [N, S, S, 3]; c: the arguments."""
  w = {k: np.asarray(v, np.float64) for k, v in w.items()}
  x = np.asarray(x, np.float64)
  for n in (1, 2):
    at = f'patch_embed.conv{n}'
    x = conv(x, w[f'{at}.weight'], w[f'{at}.bias'], 2, 1)
    x = norm(x, w, f'patch_embed.norm{n}.1')
    x = gelu(x) if n == 1 else x
  maps = []
  for s in range(4):
    ids = c.get('level2_post_norm_block_ids') if s == 2 else None
    for n in range(c['depths'][s]):
      x = block(x, w, f'levels.{s}.blocks.{n}', c['groups'][s], c)
      if c.get('level2_post_norm') and ids and n in ids:
        x = norm(x, w, f'levels.2.post_norms.{ids.index(n)}.0')
    if not c.get('post_norm') or c.get('center_feature_scale'):
      x = norm(x, w, f'levels.{s}.norm.0')
    maps.append(x)
    if s < 3:
      at = f'levels.{s}.downsample'
      x = conv(x, w[f'{at}.conv.weight'], 0.0, 2, 1)
      x = norm(x, w, f'{at}.norm.1')
  pooled = clip_pool(maps, w) if c.get('use_clip_projector') else head(x, w)
  return linear(pooled, w, 'head'), maps


def head(x, w):
  x = linear(x, w, 'conv_head.0')
  at = 'conv_head.1.0'
  x = (x - w[f'{at}.running_mean']) / np.sqrt(w[f'{at}.running_var'] + 1e-5)
  return gelu(x * w[f'{at}.weight'] + w[f'{at}.bias']).mean((1, 2))


def clip_pool(maps, w):
  x4 = linear(maps[3], w, 'dcnv3_head_x4.0')
  n, height, width, channels = x4.shape
  x = np.zeros((n, 2 * height, 2 * width, channels // 4))
  for a in range(2):
    for b in range(2):
      x[:, a::2, b::2] = x4[..., 2 * a + b :: 4]
  x = (x + linear(maps[2], w, 'dcnv3_head_x3')).reshape(n, -1, channels // 4)
  at = 'clip_projector'
  q, k, v = (
    norm(y, w, f'{at}.norm1_{name}.0') @ w[f'{at}.cross_dcn.{name}.weight'].T
    + w[f'{at}.cross_dcn.{name}_bias']
    for name, y in (('q', x.mean(1, keepdims=True)), ('k', x), ('v', x))
  )
  heads = lambda y: y.reshape(n, -1, 16, y.shape[-1] // 16).swapaxes(1, 2)
  q, k, v = heads(q), heads(k), heads(v)
  scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  pooled = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2)
  pooled = linear(pooled.reshape(n, -1), w, f'{at}.cross_dcn.proj')
  return norm(pooled, w, 'fc_norm.0')
