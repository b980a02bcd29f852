"""The floating-point operations that a method needs, counted by hand.

Matrix products only, 2 a b c for [a, b] @ [b, c]; a backward pass is two
products for each forward one, or one where an operand has no gradient. What is
computed twice to save memory counts once. docs/performance.md sets the count
beside what the compiler reports.
"""

from m3i_jax import decoders, distributions, regularizers
from m3i_jax.models.internimage import InternImage
from m3i_jax.models.layers import Projection
from m3i_jax.objective import Objective
from m3i_jax.target import Target

Parts = dict[str, int]


def layers(tokens: int, depth: int, width: int, hidden: int) -> int:
  """One forward pass of `depth` transformer layers over `tokens` tokens."""
  linear = 2 * tokens * (4 * width**2 + 2 * width * hidden)
  attention = 4 * tokens**2 * width
  return depth * (linear + attention)


def analytic(
  objective: Objective, image_size: int, batch_size: int, text_length: int = 0
) -> Parts:
  """Operations of one train step by part, for a whole batch.

  Args:
    image_size: S.
    batch_size: B, which the candidates of a batch-wide target depend on.
    text_length: T.
  """
  theta, input_ = objective.encoder, objective.input
  cells = (image_size // theta.patch) ** 2
  owned = input_.owned(cells)
  seen = cells
  if input_.mask and input_.hidden == 'drop':
    seen = owned * input_.images
  parts = {'encoder': _trained(theta, seen)} | _targets(objective, cells)
  asked = set()
  for name, target in objective.targets.items():
    decoder = objective.decoders[target.decoder]
    view = target.of if target.group == 'ssp' else ''
    queries = cells - owned if target.cells == 'hidden' else cells
    for c in target.components:
      question = (target.decoder, c, view, target.cells)
      if question not in asked:
        asked.add(question)
        tokens = owned, theta.class_token and input_.images == 1
        count = _decode(
          decoder, theta.width, tokens, queries, cells, text_length
        )
        _add(parts, f'decoder {target.decoder}', count)
    z = target.representation
    if isinstance(decoder, decoders.DenseDecoder):
      rows = queries
    else:
      rows = owned if getattr(decoder, 'pool', '') == 'none' else 1
    if isinstance(target.predictor, Projection):
      head = 3 * rows * len(target.components)
      parts[f'predictor {name}'] = head * _mlp(target.predictor, decoder.out)
    if z.reads == 'text' and not z.tells:
      parts['text tower'] = 3 * layers(text_length, z.depth, z.width, z.hidden)
    scores = len(target.components) * _scores(target, rows, batch_size)
    _add(parts, f'scores {name}', scores)
  return {name: batch_size * count for name, count in parts.items() if count}


def _add(parts: Parts, name: str, count: int) -> None:
  parts[name] = parts.get(name, 0) + count


def _encode(theta, tokens: int) -> int:
  """One forward pass of an encoder."""
  if theta.whole:
    return convnet(theta, round(tokens**0.5) * theta.patch)
  tokens, embed = tokens + theta.class_token, _embed(theta, tokens)
  return embed + layers(tokens, theta.depth, theta.width, theta.hidden)


def _trained(theta, tokens: int) -> int:
  """And back: pixels need no gradient, so the embedding's is one product."""
  return 3 * _encode(theta, tokens) - _embed(theta, tokens)


def _embed(theta, tokens: int) -> int:
  """What is done to the pixels themselves."""
  if not theta.whole:
    return 2 * tokens * theta.patch**2 * 3 * theta.width
  side = round(tokens**0.5) * theta.patch
  if isinstance(theta, InternImage):
    return 2 * (side // 2) ** 2 * 27 * theta.channels // 2
  return 2 * (side // 4) ** 2 * 48 * theta.dims[0]


def convnet(theta, side: int) -> int:
  """One forward pass of a ConvNet, its classifier left out.

  Sums over the kernel of a depthwise convolution, and of the 4 corners of each
  sample of a deformable one, count like products.
  """
  deformable = isinstance(theta, InternImage)
  width = theta.channels if deformable else theta.dims[0]
  # The stem: of InternImage two convolutions, the first half as wide.
  count = (side // 2) ** 2 * 27 * width // 2 if deformable else 0
  count += (side // 4) ** 2 * width * (9 * width // 2 if deformable else 48)
  for n, depth in enumerate(theta.depths):
    cells, width = (side >> n + 2) ** 2, width << (n > 0)
    one = 8 * width**2  # the MLP
    if deformable:
      kernel, points = theta.dw_kernel_size or 3, 9 - theta.remove_center
      told = theta.groups[n] * (3 * points + theta.center_feature_scale)
      one += (2 * width + told + kernel**2 + 4 * points) * width
    else:
      one += 49 * width
    count += cells * depth * one
    if n:
      count += cells * (9 if deformable else 4) * width**2 // 2
  if theta.patch == 16:
    count += cells * width * theta.width * 4 + 4 * cells * width // 2 * (
      theta.width
    )
  return 2 * count


def _targets(objective: Objective, cells: int) -> Parts:
  """The target views through their encoders, and what these end with."""
  theta, parts = objective.encoder, {}
  one = {
    'ema': lambda: _encode(theta, cells),
    'shared': lambda: _trained(theta, cells),
    'frozen': lambda: _encode(objective.teacher, cells),
  }
  for reads, count in one.items():
    views = objective.reading(reads)
    if views:
      _add(parts, 'target encoder', len(views) * count())
  rows = {
    (t.of, t.decoder, t.representation.reads)
    for t in objective.targets.values()
    if t.representation.projected
  }
  for _, decoder, reads in rows:
    count = _project(
      objective.decoders[decoder], theta.width, cells, theta.class_token
    )
    _add(parts, 'target encoder', (3 if reads == 'shared' else 1) * count)
  return parts


def _project(decoder, width: int, tokens: int, cls: bool) -> int:
  """One pass of what a projected target encoder ends with, on a picture."""
  if not isinstance(decoder, decoders.DenseDecoder):
    return _decode(decoder, width, (tokens, cls), 0, 0, 0) // 3
  tokens += bool(decoder.class_token and cls)
  inner = decoder.width
  return 2 * tokens * width * inner + layers(
    tokens, decoder.projector, inner, decoder.hidden
  )


def _decode(
  decoder, width: int, own: tuple[int, bool], queries: int, cells: int,
  text_length: int,
) -> int:  # fmt: skip
  """A decoder for a picture, and back.

  Args:
    width: of the encoder.
    own: how many tokens the picture has, and if a class token, too.
    queries: dense: how many of `cells` cells are asked for.
  """
  tokens, cls = own
  if isinstance(decoder, decoders.Mlp):
    rows = tokens if decoder.pool == 'none' else 1
    return 3 * rows * _mlp(decoder, width)
  if isinstance(decoder, decoders.AttentionPool):
    linear = 2 * width * width * (1 + 2 * tokens) + 2 * width * decoder.out
    return 3 * (linear + 4 * tokens * width)
  extra = bool(decoder.class_token and cls)
  inner = decoder.width
  if isinstance(decoder, decoders.CaptionDecoder):
    said, seen = text_length - 1, tokens + extra
    look = 4 * said * inner**2 + 4 * seen * width * inner
    look += 4 * said * seen * inner
    depth = decoder.depth_uni + decoder.depth_multi
    return 3 * (
      layers(said, depth, inner, decoder.hidden)
      + decoder.depth_multi * look
      + 2 * said * inner * decoder.out
    )
  # Rows and columns of the query's code by themselves, and its scale; the code
  # needs no gradient.
  sides = 2 * round(cells**0.5) * (inner // 2) * inner + inner * inner
  return 2 * 2 * sides + 3 * (
    _project(decoder, width, tokens, cls)
    + layers(tokens + extra + queries, decoder.depth, inner, decoder.hidden)
    + 2 * queries * inner * decoder.out
  )


def _mlp(projection, width: int) -> int:
  """One row through an MLP."""
  widths = [width, *projection.hidden, projection.cosine, projection.out]
  widths = [x for x in widths if x]  # no cosine: no layer
  return sum(
    2 * a * b for a, b in zip(widths, widths[1:], strict=False)
  )


def _scores(target: Target, rows: int, batch_size: int) -> int:
  """Of a picture's `rows` predictions against all candidates, and back."""
  z, p = target.representation, target.distribution
  pair, count = 2 * rows * getattr(z, 'width', 0), 0
  if isinstance(p, distributions.Boltzmann):
    table = getattr(z, 'classes', 0) or getattr(z, 'count', 0)
    # The average and a teacher have no gradient.
    back = 1 if z.reads in ('ema', 'frozen') and not table else 2
    count += (1 + back) * pair * (table or batch_size * rows)
    if hasattr(z, 'count'):
      count += pair * table  # The target's own share.
  if isinstance(p, distributions.Correlation) or isinstance(
    target.regularizer, regularizers.Decorrelation
  ):
    count += (3 if z.reads == 'shared' else 2) * pair * z.width
  if isinstance(target.regularizer, regularizers.Covariance):
    count += 3 * pair * z.width  # C without gradient, its product with one
  return count
