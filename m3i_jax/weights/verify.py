"""Both networks on one picture: ours, and the one an exported directory gives.

Needs torch and timm or transformers; without them it says so.
"""

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from m3i_jax.weights import directory, foreign, states

LIMIT = 1e-4


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a comparison found.

  Attributes:
    differences: largest absolute difference of each output; {} if none was
      made.
    note: why it was not, or what of the target's names was odd.
  """

  differences: dict[str, float]
  note: str = ''

  @property
  def differs(self) -> bool:
    return not all(x <= LIMIT for x in self.differences.values())

  def __str__(self) -> str:
    found = ', '.join(f'{k} {v:.1e}' for k, v in self.differences.items())
    told = f'largest difference: {found}' if found else 'not compared'
    return f'{told} ({self.note})' if self.note else told


def written(path: Path, family: str, net: Any, size: int) -> Verdict:
  """Compares what an exported directory gives here and elsewhere.

  Args:
    net: the module that it holds.
    size: of the pictures, in pixels.
  """
  theirs = RUNNERS.get(family)
  if theirs is None:
    return Verdict({}, f'no installable package builds the nets of {family}')
  try:
    import torch
  except ImportError:
    return Verdict({}, 'torch is not installed')
  params = states.import_state(family, foreign.read(path).arrays)
  text = hasattr(net, 'vocabulary')
  x = _words(net) if text else _picture(size)
  try:
    with torch.no_grad():
      outputs, note = theirs(
        path, torch.from_numpy(x), net, 'pooler' in params
      )
  except (ImportError, RuntimeError) as error:
    if not isinstance(error, ImportError) and 'torchvision' not in str(error):
      raise
    return Verdict({}, f'it cannot be loaded here: {error}')
  with jax.default_matmul_precision('highest'):
    # Channels first there, last here.
    own = net.apply({'params': params}, x if text else x.transpose(0, 2, 3, 1))
  own = {'text': own} if text else own
  return Verdict(
    {k: float(np.abs(outputs[k] - _own(own, k)).max()) for k in outputs}, note
  )


def _picture(size: int) -> np.ndarray:
  """float32 [2, 3, S, S]: a fixed one, normalised, and another."""
  return np.random.default_rng(0).normal(size=(2, 3, size, size)).astype('f')


def _words(net: Any) -> np.ndarray:
  """int64 [2, T]: real tokens alone, the last the highest id."""
  rng, length = np.random.default_rng(0), min(8, net.positions)
  ids = rng.integers(1, net.vocabulary - 1, (2, length))
  ids[:, -1] = net.vocabulary - 1
  return ids


def _own(outputs: Mapping, name: str) -> np.ndarray:
  """An output of ours: 'tokens' begin with the class token, as elsewhere."""
  x = outputs['tokens'] if name == 'tokens' else outputs.get(name)
  if name == 'tokens' and 'cls' in outputs:
    x = np.concatenate([outputs['cls'][:, None], x], axis=1)
  if name == 'map':
    x = outputs['pyramid'][-1].transpose(0, 3, 1, 2)
  return np.asarray(x)


def _timm(path: Path, x, net, _) -> tuple[dict, str]:
  import timm

  model = timm.create_model(f'local-dir:{path}', pretrained=True).eval()
  name = 'map' if hasattr(net, 'dims') else 'tokens'
  outputs = {name: model.forward_features(x).numpy()}
  if net.num_classes:
    outputs['logits'] = model(x).numpy()
  elif getattr(net, 'pooling', '') == 'map':
    outputs['pooled'] = model(x).numpy()
  return outputs, ''


def _mae(path: Path, x, net, _) -> tuple[dict, str]:
  import torch
  from safetensors.torch import load_file
  from timm.models.vision_transformer import VisionTransformer

  told = json.loads((path / 'config.json').read_text())
  arrays = load_file(path / 'model.safetensors')
  arrays.pop('mask_token', None)
  model = VisionTransformer(**told, num_classes=net.num_classes).eval()
  model.load_state_dict(arrays)
  if not net.final_norm:
    model.norm = torch.nn.Identity()
  return {'tokens': model.forward_features(x).numpy()}, ''


def _hf(path: Path, x, net, pooler: bool) -> tuple[dict, str]:
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  told = json.loads((path / 'config.json').read_text())
  cls = getattr(transformers, told['architectures'][0])
  more = dict(dtype=torch.float32)
  if 'add_pooling_layer' in inspect.signature(cls).parameters:
    # Made up if the file has none; kept where it came with one.
    more['add_pooling_layer'] = pooler
  model, info = cls.from_pretrained(path, output_loading_info=True, **more)
  wrong = [
    f'{kind}: {", ".join(sorted(map(str, info[kind]))[:3])}'
    for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys')
    if info[kind]
  ]
  arguments = dict(output_hidden_states=True)
  if told['model_type'] == 'vit_mae':
    cells = (told['image_size'] // told['patch_size']) ** 2
    arguments['noise'] = x.new_tensor([range(cells)] * len(x))
  out = model.eval()(x, **arguments)
  return _hf_outputs(out, net), '; '.join(wrong)


def _hf_outputs(out, net) -> dict[str, np.ndarray]:
  if hasattr(net, 'vocabulary'):
    if getattr(out, 'text_embeds', None) is not None:
      return {'text': out.text_embeds.numpy()}
    tokens = out.last_hidden_state
    pooled = dict(cls=tokens[:, 0], mean=tokens.mean(1), last=tokens[:, -1])
    pooled['pooler'] = out.pooler_output
    return {'text': pooled[net.pool].numpy()}
  if getattr(out, 'logits', None) is not None:
    return {'logits': out.logits.numpy()}
  normed = net.final_norm
  tokens = out.last_hidden_state if normed else out.hidden_states[-1]
  outputs = {'tokens': tokens.numpy()}
  if net.pooling == 'map':
    outputs['pooled'] = out.pooler_output.numpy()
  return outputs


RUNNERS = {
  'timm_vit': _timm,
  'timm_convnext': _timm,
  'mae': _mae,
  'hf_vit': _hf,
  'hf_vitmae': _hf,
  'hf_dinov2': _hf,
  'hf_siglip': _hf,
  'hf_bert': _hf,
  'hf_clip_text': _hf,
}


def imported(family: str, model: Mapping, net: Any, params: Mapping) -> Verdict:
  """Compares an imported network with the one whose arrays it was made of.

  The way back to the official names is bitwise, so that the directory that is
  made for it holds the arrays that were read.
  """
  with tempfile.TemporaryDirectory() as temporary:
    out = Path(temporary) / 'net'
    source = directory.Source(dict(model), dict(params), net, 0)
    made = directory.write(source, family, out)
    return written(out, family, made.net, made.size)
