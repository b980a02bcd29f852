"""The floating-point operations that a method needs, counted by hand.

Matrix products only, 2 a b c for [a, b] @ [b, c]; a backward pass is two
products for each forward one. docs/performance.md sets the count beside what
the compiler reports.
"""

from m3i_jax import decoders
from m3i_jax.objective import Objective


def layers(tokens: int, depth: int, width: int, hidden: int) -> int:
  """One forward pass of `depth` transformer layers over `tokens` tokens."""
  linear = 2 * tokens * (4 * width**2 + 2 * width * hidden)
  attention = 4 * tokens**2 * width
  return depth * (linear + attention)


def analytic(
  objective: Objective, image_size: int, batch_size: int, text_length: int = 0
) -> dict[str, int]:
  """Operations of one train step by part, for a ViT and a whole batch.

  Args:
    image_size: S.
    batch_size: B, which the candidates of a batch-wide target depend on.
    text_length: T.
  """
  theta = objective.encoder
  cells = (image_size // theta.patch) ** 2
  owned = objective.input.owned(cells)
  seen = cells
  if objective.input.mask and objective.input.hidden == 'drop':
    seen = owned * objective.input.images

  def encode(tokens: int) -> int:
    embed = 2 * tokens * theta.patch**2 * 3 * theta.width
    tokens += theta.class_token
    return embed + layers(tokens, theta.depth, theta.width, theta.hidden)

  parts = {
    # The pixels need no gradient: the embedding's backward is one product.
    'encoder': 3 * encode(seen) - 2 * seen * theta.patch**2 * 3 * theta.width,
    'target encoder': len(objective.reading('ema')) * encode(cells),
  }
  asked = set()
  for name, target in objective.targets.items():
    z = target.representation
    decoder = objective.decoders[target.decoder]
    for c in target.components:
      view = target.of if target.group == 'ssp' else ''
      question = (target.decoder, c, view, target.cells)
      if question in asked:
        continue
      asked.add(question)
      part = f'decoder {target.decoder}'
      queries = cells - owned if target.cells == 'hidden' else cells
      count = 3 * _decode(decoder, theta.width, owned, queries, cells)
      parts[part] = parts.get(part, 0) + count
    if z.reads == 'text':
      parts['text tower'] = 3 * layers(text_length, z.depth, z.width, z.hidden)
    if target.group == 'sp':
      candidates = z.classes if z.reads == 'label' else batch_size
      scores = len(target.components) * 2 * candidates * z.width
      parts[f'scores {name}'] = 3 * scores
  return {name: batch_size * count for name, count in parts.items() if count}


def _decode(decoder, width: int, own: int, queries: int, cells: int) -> int:
  """One forward pass of a decoder for one image."""
  if isinstance(decoder, decoders.AttentionPool):
    # Keys and values of every token; query and output of one.
    return 2 * (2 * own * width**2 + width**2 + width * decoder.out) + (
      4 * own * width
    )
  inner = decoder.width
  sides = 2 * round(cells**0.5) * (inner // 2) * inner + inner * inner
  return (
    2 * own * width * inner
    + 2 * sides
    + layers(own + queries, decoder.depth, inner, decoder.hidden)
    + 2 * queries * inner * decoder.out
  )
