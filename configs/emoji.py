"""M3I on the bundled emoji64 pictures: image, caption and category, on a CPU.

Train: two vendors' drawings. Scored on the third vendor and on families of
concepts that neither vendor trained on.
"""

from m3i_jax import config, recipes


def get_config(arg: str = ''):
  c = config.default()
  c.batch_size = 64
  c.total_steps = 2600
  c.eval_every = 650
  c.checkpoint_every = 300
  c.data.update(
    source='emoji64', label='subgroup', text='caption', tags='keywords',
    id='id', tags_probability=0.5, text_length=16, vocabulary=2000,
  )  # fmt: skip
  c.image_size = 48
  for view, blur in ((c.views.a, 0.5), (c.views.b, 0.1)):
    view.update(scale=(0.5, 1.0), jitter=0.5, gray=0.1, blur=blur)

  c.input = dict(view='a', images=2, mask=0.5, pattern='block', hidden='drop')
  c.model.update(
    variant='', width=128, depth=4, heads=4, hidden=512, patch=12,
    class_token=False, unroll=4, dtype='mixed',
  )  # fmt: skip
  c.decoders.dense = dict(kind='dense', width=64, depth=2, heads=4, hidden=256)
  c.decoders.pool = dict(kind='pool', out=128, heads=4)

  c.features = 'pool'
  c.targets.intra = recipes.dense('a', component=0, cells='hidden')
  c.targets.inter = recipes.dense('b', component=1)
  c.targets.category = recipes.category((0, 1))
  c.targets.text = recipes.text((0, 1), variant='mini', pool='mean')
  c.balance = dict(kind='gradient_norm', gamma=4.0, decay=0.99)
  c.optimizer.update(learning_rate=2e-3, warmup=0.05, weight_decay=0.05)
  c.ema = dict(start=0.99, end=1.0)

  knn = dict(kind='knn', train='train')
  probe = dict(kind='probe', train='train')
  c.evals = dict(
    concept_1nn=dict(knn, test='vendor', label='concept', k=1),
    group_knn=dict(knn, test='heldout', label='group'),
    subgroup_knn=dict(knn, test='heldout', label='subgroup'),
    group_knn_vendor=dict(knn, test='vendor_heldout', label='group'),
    subgroup_knn_vendor=dict(knn, test='vendor_heldout', label='subgroup'),
    group_probe=dict(probe, test='heldout', label='group'),
    subgroup_probe=dict(probe, test='heldout', label='subgroup'),
    group_probe_vendor=dict(probe, test='vendor_heldout', label='group'),
    subgroup_probe_vendor=dict(probe, test='vendor_heldout', label='subgroup'),
    zeroshot=dict(
      kind='zeroshot', queries='vendor', candidates=('vendor', 'vendor_heldout')
    ),
  )
  c.panel.split = 'vendor'
  return config.variant(c, arg)
