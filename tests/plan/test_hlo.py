"""Collectives in compiled text: of the CPU here, and of TPUs in golden/hlo.

Those files are `step` below, compiled on 21 Nov 2026 by jax 0.10.2 and libtpu
0.0.42, with the lines left out that nothing here reads.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from m3i_jax.plan import hlo

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'hlo'
DEPTH, WIDTH = 4, 512
WEIGHT = 2 * WIDTH**2  # bytes in bfloat16


def step(w, x):
  """Four layers, weights over 'fsdp'; neighbours in the batch differ."""

  def loss(w):
    layer = lambda x, w: (jnp.tanh(x @ w.astype(x.dtype)), None)
    y, _ = jax.lax.scan(layer, x, w)
    return jnp.mean((y.astype(jnp.float32) - jnp.roll(y, 1, 0)) ** 2)

  value, gradient = jax.value_and_grad(loss)(w)
  return w - 0.1 * gradient, value


def compiled() -> str:
  mesh = Mesh(
    np.array(jax.devices()[:8]).reshape(2, 4), ('replica', 'fsdp'),
    axis_types=(AxisType.Auto,) * 2,
  )  # fmt: skip
  put = lambda *spec: NamedSharding(mesh, P(*spec))
  shape = lambda shape, dtype, where: jax.ShapeDtypeStruct(
    shape, dtype, sharding=where
  )
  w = shape((DEPTH, WIDTH, WIDTH), jnp.float32, put(None, 'fsdp'))
  x = shape((64, WIDTH), jnp.bfloat16, put(('replica', 'fsdp')))
  places = w.sharding, put()
  return jax.jit(step, out_shardings=places).lower(w, x).compile().as_text()


def rows(text: str, kind: str, network: bool = False) -> list:
  return [
    (c.shape, c.payload, c.group, c.times)
    for c in hlo.collectives(text)
    if c.kind == kind and c.network == network
  ]


def test_a_loop_counts_as_often_as_it_runs_on_this_machine():
  found = hlo.collectives(compiled())
  gathers = [c for c in found if c.kind == 'all-gather']
  # Weights once forward and once back; a CPU gathers them as float32.
  assert [(c.group, c.times) for c in gathers] == [(4, DEPTH)] * 2
  assert [c.payload for c in gathers] == [2 * WEIGHT] * 2
  assert all('dot_general' in c.source for c in gathers)
  assert all(c.counted and not c.network for c in found)


def test_a_cpu_says_how_often_and_names_axes():
  text = (GOLDEN / 'cpu_8.txt').read_text()
  gather = ('f32[512,512]', 2 * WEIGHT, 4, DEPTH)
  assert rows(text, 'all-gather') == [gather] * 2
  assert ('f32[1,512]+f32[]', 2052, 8, 1) in rows(text, 'all-reduce')


def test_a_tpu_scatters_within_a_fusion_and_has_limits_in_conditions():
  text = (GOLDEN / 'v5p_2x2x2.txt').read_text()
  gather = ('bf16[1,512,512]', WEIGHT, 4, DEPTH)
  assert rows(text, 'all-gather') == [gather] * 2
  assert rows(text, 'reduce-scatter') == [('bf16[512,512]', WEIGHT, 4, DEPTH)]
  # A pair of start and done is one; so is the quarter that two replicas add.
  assert rows(text, 'collective-permute') == [('bf16[1,512]', 1024, 2, 1)] * 2
  assert ('bf16[1,128,512]', WEIGHT // 4, 2, DEPTH) in rows(text, 'all-reduce')
  assert hlo.summary(hlo.collectives(text))['all-gather'] == {
    'count': 2 * DEPTH,
    'bytes': 2 * DEPTH * WEIGHT,
    'sent_bytes': 2 * DEPTH * WEIGHT * 3 / 4,
  }


def test_slices_talk_over_the_network_and_chains_of_fusions_are_one():
  text = (GOLDEN / 'v5e_2x2_two_slices.txt').read_text()
  found = hlo.collectives(text)
  gathers = [c for c in found if c.kind == 'all-gather']
  # One step of the loop is peeled off: 4 + (1 + 3); of the three, the fusions
  # of an asynchronous chain repeat the operation.
  assert sorted(c.times for c in gathers) == [1, 3, 4]
  between = [c for c in found if c.network and c.kind == 'all-reduce']
  assert sorted((c.payload, c.group, c.times) for c in between) == [
    (512, 2, 1), (2048, 2, 1), (WEIGHT // 4, 2, 1), (WEIGHT // 4, 2, 3)
  ]  # fmt: skip
  summary = hlo.summary(found)
  assert summary['reduce-scatter']['bytes'] == DEPTH * WEIGHT
  assert summary['all-reduce between slices']['count'] == 6


def line(text: str, header: str = '') -> hlo.Collective:
  module = f'HloModule m, num_partitions=8{header}\n\nENTRY %main () -> x {{\n'
  (one,) = hlo.collectives(f'{module}  {text}\n}}\n')
  return one


def test_other_notations_of_groups_and_shapes():
  # As XLA writes them for GPUs; a starting gather holds what goes in, too.
  start = line(
    '%a = (bf16[16,8]{1,0}, bf16[64,8]{1,0}) all-gather-start(%x), '
    'channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}'
  )
  assert (start.kind, start.payload, start.group) == ('all-gather', 1024, 4)
  scatter = line(
    'ROOT %r = f32[16,8]{1,0} reduce-scatter(%x), channel_id=1, '
    'replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add'
  )
  assert (scatter.payload, scatter.group) == (2 * 4 * 16 * 8, 2)
  everyone = line('%r = s8[100] all-to-all(%x), replica_groups={}')
  assert (everyone.payload, everyone.group) == (100, 8)
  part = line(
    "%r = pred[3,7] all-reduce(%x), replica_groups=mesh['x'=2,'y'=8] "
    "{'x','y':(2)4}, to_apply=%or"
  )
  assert (part.payload, part.group) == (21, 8)


@pytest.mark.parametrize(
  ('op', 'sent'),
  [
    ('all-gather', 750),
    ('all-reduce', 1500),
    ('all-to-all', 750),
    ('collective-permute', 1000),
  ],
)
def test_bytes_along_a_ring_of_four(op, sent):
  one = line(f'%r = s8[1000] {op}(%x), replica_groups={{{{0,1,2,3}},{{4}}}}')
  assert one.sent == sent


def test_a_loop_of_unknown_length_is_told():
  text = """HloModule m, num_partitions=2

%body () -> x {
  ROOT %r = f32[8] all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%cond () -> x {
  %limit = f32[] constant(4)
  ROOT %c = pred[] fusion(%limit), kind=kLoop, calls=%near
}

ENTRY %main () -> x {
  ROOT %w = (f32[8]) while(%init), condition=%cond, body=%body
}
"""
  (one,) = hlo.collectives(text)
  assert (one.times, one.counted) == (1, False)
