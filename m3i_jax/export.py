"""Weights of a run, as a directory that other projects load.

  python -m m3i_jax.export --to=timm_vit --out=exported runs/vitb
  timm.create_model('local-dir:exported', pretrained=True)

  python -m m3i_jax.export --to=hf_vit --which=ema --out=exported runs/vitb
  transformers.ViTModel.from_pretrained('exported')

PATH is the workdir of a run, of which a checkpoint is enough, or a file of
m3i_jax.import_weights. Works on a CPU, whatever the run was trained on. The
directory holds model.safetensors, config.json and README.md; for the families
whose tools read .pth, that too where torch is installed.

Exit codes: 0, 1 if --verify found a difference, 2 a mistake that the printed
line explains.
"""

from pathlib import Path

from absl import flags

from m3i_jax import command, weights
from m3i_jax.errors import UserError
from m3i_jax.weights import adapt, directory, verify


def define() -> None:
  """The flags."""
  flags.DEFINE_string('to', '', 'family: ' + ', '.join(weights.FAMILIES))
  flags.DEFINE_string('out', '', 'the directory to write')
  flags.DEFINE_enum(
    'which', 'online', ('online', 'ema'), 'encoder of a run'
  )
  flags.DEFINE_enum(
    'dtype', 'float32', ('float32', 'bfloat16'), 'of the arrays'
  )
  flags.DEFINE_integer(
    'image_size', 0, 'of the pictures, in pixels; 0: as trained'
  )
  flags.DEFINE_bool(
    'overwrite', False, 'replace a directory that this command has written'
  )
  flags.DEFINE_bool(
    'verify', False, 'run both nets, where torch is installed, and compare'
  )


def work(path: str, given: flags.FlagValues) -> int:
  """The command."""
  if given.to not in weights.FAMILIES:
    raise UserError(
      f'--to={given.to}: choose from {", ".join(weights.FAMILIES)}'
    )
  out = Path(given.out)
  directory.refuse(out, given.overwrite)
  net = directory.source(
    path, given.which, given.to in adapt.KINDS['text']
  )
  written = directory.write(
    net, given.to, out, given.image_size, given.dtype, given.overwrite
  )
  print(
    f'family    {given.to}: {written.count:.3f} M parameters, {given.dtype}'
  )
  for name in written.left_out:
    print(f'left out  {name}')
  for note in written.notes:
    print(f'note      {note}')
  print(f'wrote     {out}')
  if not given.verify:
    return 0
  told = verify.written(out, given.to, written.net, written.size)
  print(f'verify    {told}')
  return int(told.differs)


if __name__ == '__main__':
  command.run(define, work, required=('to', 'out'))
