"""Section 3.4 once more: NumPy, float64, one sample and one cell at a time.

It shares nothing with the package but the names of the parameters. Cells keep
their raster order, images are mixed as pixels, un-mixing is a boolean mask, and
every target is made where it is needed.
"""

import jax
import numpy as np
from scipy.special import erf

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def linear(p, x):
  return x @ p['kernel'] + p['bias']


def standardise(x, eps):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def standardise_pixels(x):
  """MAE's: by the unbiased variance."""
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).sum(-1, keepdims=True) / (x.shape[-1] - 1) + 1e-6)


def layer_norm(p, x, eps=1e-6):
  return standardise(x, eps) * p['scale'] + p['bias']


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def attend(q, k, v, heads):
  """q [D], k and v [N, D] -> [D]."""
  d = len(q) // heads
  parts = []
  for h in range(heads):
    s = slice(h * d, (h + 1) * d)
    parts.append(softmax(k[:, s] @ q[s] / np.sqrt(d)) @ v[:, s])
  return np.concatenate(parts)


def attention(p, x, heads):
  q, k, v = np.split(linear(p['qkv'], x), 3, axis=-1)
  y = np.stack([attend(q[n], k, v, heads) for n in range(len(x))])
  return linear(p['proj'], y)


def mlp(p, x):
  y = linear(p['fc1'], x)
  return linear(p['fc2'], 0.5 * y * (1 + erf(y / np.sqrt(2))))


def blocks(p, x, heads, post_norm=False):
  for n in range(len(p['layers']['norm1']['scale'])):
    b = jax.tree.map(lambda a, n=n: a[n], p['layers'])
    if post_norm:
      x = layer_norm(b['norm1'], x + attention(b['attn'], x, heads), 1e-12)
      x = layer_norm(b['norm2'], x + mlp(b['mlp'], x), 1e-12)
    else:
      x = x + attention(b['attn'], layer_norm(b['norm1'], x), heads)
      x = x + mlp(b['mlp'], layer_norm(b['norm2'], x))
  return x


def waves(x, width):
  """Sines and cosines of a number: [width]."""
  k = np.arange(width // 2)
  angle = x * 10000.0 ** (-k / (width // 2))
  return np.concatenate([np.sin(angle), np.cos(angle)])


def place(cell, grid, width):
  """A cell of the input view: [width], rows first."""
  row, column = divmod(cell, grid)
  return np.concatenate([waves(row, width // 2), waves(column, width // 2)])


def relative_place(cell, grid, width, x, y):
  """A cell of target view y in the frame of input view x: [2 width].

  Through the picture: centre of the cell, un-mirrored, mirrored as x, and to
  x's patches. Boxes are fractions of the picture.
  """
  row, column = divmod(cell, grid)
  top, left, height, width_y = y['box']
  v = top + height * (row + 0.5) / grid
  u = left + width_y * (column + 0.5) / grid
  if x['flip'] != y['flip']:
    u = 1 - u
  v = (v - x['box'][0]) / x['box'][2] * grid - 0.5
  u = (u - x['box'][1]) / x['box'][3] * grid - 0.5
  scale = [10 * np.log(y['box'][n] / x['box'][n]) for n in (2, 3)]
  return np.concatenate([waves(a, width // 2) for a in (v, u, *scale)])


def patches(image, patch):
  g = len(image) // patch
  return np.stack(
    [
      image[
        r * patch : (r + 1) * patch, c * patch : (c + 1) * patch
      ].reshape(-1)
      for r in range(g)
      for c in range(g)
    ]
  )


def encoder(p, image, cells, heads):
  """Tokens of the given cells of one image, [len(cells), D]."""
  kernel = p['patch_embed']['proj']['kernel']
  patch, width = kernel.shape[0], kernel.shape[-1]
  grid = len(image) // patch
  x = patches(image, patch)[cells] @ kernel.reshape(-1, width)
  x = x + p['patch_embed']['proj']['bias']
  x = x + np.stack([place(cell, grid, width) for cell in cells])
  x = np.concatenate([p['cls_token'][0], x])
  return blocks(p['blocks'], x, heads)[1:]


def decoder(p, tokens, cells, queries, grid, x, y, heads):
  """Predictions [len(queries), D] for cells of view y from tokens of x."""
  width = p['mask_token'].shape[-1]
  own = linear(p['embed'], tokens)
  own = own + np.stack([place(cell, grid, width) for cell in cells])
  code = np.stack([relative_place(q, grid, width, x, y) for q in queries])
  asked = p['mask_token'][0] + code @ p['position_kernel']
  asked = asked + p['position_bias']
  out = blocks(p['blocks'], np.concatenate([own, asked]), heads)
  return linear(p['head'], out[len(own) :])


def pool(p, tokens, heads):
  q = linear(p['q'], layer_norm(p['norm_q'], tokens.mean(0)))
  k = linear(p['k'], layer_norm(p['norm_k'], tokens))
  v = linear(p['v'], layer_norm(p['norm_v'], tokens))
  return linear(p['proj'], attend(q, k, v, heads))


def text_tower(p, text, heads):
  """The first token's output; padding is cut off."""
  text = text[: max(1, (text > 0).sum())]
  x = p['word'][text] + p['position'][: len(text)] + p['type'][0]
  x = layer_norm(p['norm'], x, 1e-12)
  return blocks(p['blocks'], x, heads, post_norm=True)[0]


def log_softmax(x):
  return x - x.max() - np.log(np.exp(x - x.max()).sum())


class M3I:
  """X = {x_i, x_j}, Y = {y_i, y_j, T_i, T_j} for a batch.

  Args:
    params, ema: of the package.
    views: {'a', 'b'}: {'image' [B, S, S, 3] in 0..1, 'box', 'flip'}.
    mask: bool [B, L], m.
    mixed: two images; otherwise the encoder sees the cells of m alone.
    heads: of encoder, decoder, pool, text tower.
  """

  def __init__(self, params, ema, views, mask, mixed=True, heads=(2, 2, 4, 2)):
    double = lambda t: jax.tree.map(lambda x: np.asarray(x, np.float64), t)
    self.params, self.ema = double(params), double(ema)
    self.views, self.mask, self.heads = double(views), np.asarray(mask), heads
    for view in self.views.values():
      view['image'] = (view['image'] - MEAN) / STD
    self.batch, cells = self.mask.shape
    self.grid = round(cells**0.5)
    self.mixed = mixed
    self.patch = self.views['a']['image'].shape[1] // self.grid
    self.encoded = [self.encode(n) for n in range(self.batch)]

  def view(self, letter, n):
    return {k: v[n] for k, v in self.views[letter].items()}

  def encode(self, n):
    """{component: (picture, its cells, their tokens)} of input n."""
    m, partner = self.mask[n], n ^ 1
    x = self.view('a', n)['image']
    p = self.params['encoder']
    if not self.mixed:
      cells = np.flatnonzero(m)
      return {0: (n, cells, encoder(p, x, cells, self.heads[0]))}
    pixels = np.kron(m.reshape(self.grid, self.grid),
                     np.ones((self.patch, self.patch)))[..., None]  # fmt: skip
    x = pixels * x + (1 - pixels) * self.view('a', partner)['image']
    z = encoder(p, x, np.arange(m.size), self.heads[0])
    return {
      0: (n, np.flatnonzero(m), z[m]),
      1: (partner, np.flatnonzero(~m), z[~m]),
    }

  def dense(self, letter, component, hidden, pixels=False):
    """E |z_y - zhat|^2 of one component."""
    terms = []
    for z_x in self.encoded:
      picture, cells, tokens = z_x[component]
      x, y = self.view('a', picture), self.view(letter, picture)
      everything = np.arange(self.grid**2)
      queries = np.setdiff1d(everything, cells) if hidden else everything
      if pixels:
        z_y = standardise_pixels(patches(y['image'], self.patch))
      else:
        z_y = encoder(
          self.ema['encoder'], y['image'], everything, self.heads[0]
        )
        z_y = standardise(z_y, 1e-5)
      zhat = decoder(
        self.params['decoders_dense'], tokens, cells, queries, self.grid, x, y,
        self.heads[1],
      )  # fmt: skip
      terms.append(((z_y[queries] - zhat) ** 2).mean())
    return np.mean(terms)

  def category(self, label, component, smoothing=0.1):
    p, terms = self.params['targets_category'], []
    for z_x in self.encoded:
      picture, _, tokens = z_x[component]
      if label[picture] < 0:
        continue
      zhat = pool(self.params['decoders_pool'], tokens, self.heads[2])
      zhat = layer_norm(p['predictor'], zhat)
      table = p['representation']
      log_p = log_softmax(table['table'] @ zhat + table['bias'])
      terms.append(
        -(1 - smoothing) * log_p[label[picture]] - smoothing * log_p.mean()
      )
    return np.mean(terms)

  def text(self, text, component):
    """InfoNCE both ways among the pictures that have a text."""
    p, pairs = self.params['targets_text'], []
    unit = lambda x: x / np.linalg.norm(x)
    for z_x in self.encoded:
      picture, _, tokens = z_x[component]
      if text[picture].any():
        zhat = pool(self.params['decoders_pool'], tokens, self.heads[2])
        z_y = text_tower(
          p['representation']['tower'], text[picture], self.heads[3]
        )
        pairs.append((unit(zhat), unit(z_y)))
    images, texts = map(np.stack, zip(*pairs, strict=True))
    logits = np.exp(p['distribution']['logit_scale']) * images @ texts.T
    terms = [
      -(log_softmax(logits[n])[n] + log_softmax(logits[:, n])[n]) / 2
      for n in range(len(logits))
    ]
    return np.mean(terms)
