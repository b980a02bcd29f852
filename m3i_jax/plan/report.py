"""A plan for people to read."""

import textwrap
from typing import Any

KINDS = {
  'params': 'parameters',
  'optimizer': 'optimizer',
  'ema': 'average (EMA)',
  'other': 'other state',
  'batch': 'batch',
  'temporaries': 'activations and temporaries',
  'results': 'results',
  'padding': 'padding of these',
  'program': 'program',
  'total': 'total',
  'available': 'available',
}


def table(plan: dict[str, Any]) -> str:
  """Text of several lines of at most 80 columns."""
  parts = (_what(plan), _memory(plan), _traffic(plan), _cost(plan))
  return '\n\n'.join('\n'.join(part) for part in parts if part)


def size(count: float) -> str:
  """Bytes with a unit that leaves three figures."""
  for unit in ('B', 'KiB', 'MiB'):
    if count < 1000:
      return f'{count:.3g} {unit}'
    count /= 1024
  return f'{count:.4g} GiB'


def flags(change: dict[str, Any]) -> str:
  """A change of the config as options of the command line."""
  return ' '.join(f'--config.{key}={value}' for key, value in change.items())


def _what(plan) -> list[str]:
  mesh = ' x '.join(f'{axis} {n}' for axis, n in plan['mesh'].items())
  lines = [
    f'{plan["topology"]}: {plan["devices"]} devices ({plan["device"]}) as '
    f'{mesh}',
    f'{plan["parameters"] / 1e6:.1f} M parameters, batch {plan["batch_size"]} '
    f'in {plan["accumulate"]} part(s), remat {plan["remat"]}',
  ]
  if plan['changes']:
    lines.append(f'with {flags(plan["changes"])}')
  return lines


def _memory(plan) -> list[str]:
  sizes = plan['bytes_per_device']
  lines = ['on each device']
  for key, name in KINDS.items():
    if sizes.get(key) is not None:
      lines.append(f'  {name:30} {size(sizes[key]):>12}')
  lines.append('it fits' if plan['fits'] else 'IT DOES NOT FIT')
  for change in plan['remedies']:
    lines.append(f'  try {flags(change)}')
  if plan['remedies']:
    lines.append('  or a larger slice; --search compiles these until one fits')
  return lines


def _traffic(plan) -> list[str]:
  if not plan['collectives']:
    return []
  lines = [f'{"a device sends":36} {"times":>7} {"payload":>12} {"sent":>12}']
  for kind, row in plan['collectives'].items():
    lines.append(
      f'  {kind:34} {row["count"]:7} {size(row["bytes"]):>12} '
      f'{size(row["sent_bytes"]):>12}'
    )
  lines.append('most of it:')
  for row in plan['largest_collectives']:
    lines.append(
      f'  {size(row["sent_bytes"]):>10} {row["count"]:5} x {row["kind"]} of '
      f'{row["group"]}: {row["shape"]}'[:80]
    )
    if row['source']:
      lines.append(f'{"":13}{row["source"]}'[:80])
  return lines


def _cost(plan) -> list[str]:
  lines = [
    f'{plan["flops_per_step"] / 1e12:.2f} TFLOP a step of the whole batch'
  ]
  if plan['floor_ms']:
    floors = ', '.join(f'{k} {v:.1f}' for k, v in plan['floor_ms'].items())
    lines += [
      f'at least, in ms a step: {floors}',
      f'at {100 * plan["mfu"]:.0f} % of the bf16 peak: '
      f'{plan["step_ms"]:.1f} ms a step, {plan["images_per_s"]:.0f} images/s, '
      f'{plan["images_per_s_per_chip"]:.1f} a chip',
      f'{plan["total_steps"]} steps: {plan["days"]:.2f} days, '
      f'{plan["chip_hours"]:.0f} chip-hours',
    ]
  for note in plan['notes']:
    lines += textwrap.wrap(f'note: {note}', 80, subsequent_indent='  ')
  return lines
