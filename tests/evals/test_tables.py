"""Tables: aligned, folded, the best marked, '-' where nothing was measured."""

from m3i_jax.evals import tables

ROWS = {
  'raw pixels': {
    'near_knn/top1': 29.04,
    'near_knn/top1_se': 1.2,
    'near_knn/top1_chance': 0.06,
  },
  'untrained': {'near_knn/top1': 5.8, 'zs/top1': 0.2, 'zs/top1_chance': 7.7},
  'trained': {'near_knn/top1': 12.0, 'zs/top1': 7.04},
  'EMA': {'near_knn/top1': 11.0, 'zs/top1': 7.01},
}


def test_plain_text():
  assert tables.table(ROWS) == """\
                near
                 knn    zs
                top1  top1
chance          0.06   7.7
raw pixels 29.0 ±1.2*    -
untrained        5.8   0.2
trained         12.0   7.0*
EMA             11.0   7.0*"""


def test_folding_keeps_every_column():
  rows = {'a': {f'n{i}/top1': i for i in range(40)}, 'b': {}}
  text = tables.table(rows, width=60)
  assert max(map(len, text.splitlines())) <= 60
  assert all(f' n{i}' in text for i in range(40))


def test_markdown():
  lines = tables.markdown_table(ROWS).splitlines()
  assert lines[0] == '|  | near<br>knn<br>top1 | zs<br>top1 |'
  assert lines[3] == '| raw pixels | **29.0 ±1.2** | - |'
  assert lines[5] == '| trained | 12.0 | **7.0** |'
