"""Says which target has collapsed, by what evidence, and what to try.

A target collapses in one of two ways, as `monitors` sees it:
  constant: all pictures have one target (of unit length, where its distribution
    looks at directions only): target_std -> 0 or cosine_across -> 1. The loss
    goes to 0 and its floor with it, so a falling loss is no comfort; nor is a
    high rank, since what is left of the spread is noise in all directions.
  line: the targets differ along one direction only: target_rank -> 1.

Lowest std, highest cosine and lowest rank on emoji64 (ViT of 4 blocks of 128,
batch 64, learning rate 2e-3, 100 to 300 steps; one run each):
  untrained, dense after LayerNorm          .72   .46   6.0
  untrained, global behind an MLP           .51   .75   2.6
  M3I                                       .50   .74   2.5
  SiameseIM                                 .49   .75   2.1
  SiameseIM without its covariance term     .46   .78   2.7
  the same, online encoder, stop-gradient   .46   .78   1.5
  dense distillation, MIM global            .70   .48   3.3
  DenseCL, MoCo without BN, BYOL            .51   .75   2.4
  Barlow Twins, Siamese global (with BN)    .84   .28   3.0
  DINO                                      .31   .90   1.9
  BYOL without BN                           .24   .96   1.6
Built to collapse, the online encoder as the target with its gradient:
  dense, step 20, 40, 120    .050 .034 .026   .997 .999 .999   rank 4 to 17
  global, step 20, 40, 120   .13  .09  .10    all .9997 up     rank 1.01
The thresholds lie between these, far from both.
"""

from collections.abc import Iterable, Mapping

LOW_STD, HIGH_COSINE, LOW_RANK = 0.1, 0.99, 1.1
ROWS = 4  # logged rows in a row: neither a start nor one odd batch counts


class CollapseAlarm:
  """Watches the rows of a run's metrics, one after the other.

  Attributes:
    active: names of the targets that are collapsed now.
  """

  def __init__(self, targets: Iterable[str]):
    """targets: names of those that the model itself makes of the pictures."""
    self.active: set[str] = set()
    self._streak = dict.fromkeys(targets, 0)  # bad rows; below 0: good ones

  def check(self, step: int, row: Mapping[str, float]) -> list[str]:
    """One line for each target that this row shows to have collapsed.

    A target is told once; again only if it has recovered for ROWS rows between.

    Args:
      step: of the row.
      row: metrics by key, 'target_std/NAME' and so on; a target without these
        is passed over.
    """
    lines = []
    for name, streak in self._streak.items():
      sign = _sign(name, row)
      streak = max(streak, 0) + 1 if sign else min(streak, 0) - 1
      self._streak[name] = streak
      if streak >= ROWS and name not in self.active:
        self.active.add(name)
        lines.append(
          f'step {step}: target {name} has collapsed, {sign}: '
          f'{_evidence(name, row)}. {_advice(name)}'
        )
      elif streak <= -ROWS:
        self.active.discard(name)
    return lines


def _sign(name: str, row: Mapping[str, float]) -> str:
  """What is wrong with the target, '' if nothing is."""
  # A target without the key, or with too few pictures to tell, is fine.
  read = lambda key, fine: row.get(f'{key}/{name}', fine)
  if (
    read('target_std', LOW_STD) < LOW_STD
    or read('cosine_across', HIGH_COSINE) > HIGH_COSINE
  ):
    return 'it is the same for every picture'
  if read('target_rank', LOW_RANK) < LOW_RANK:
    return 'it differs along one direction only'
  return ''


def _evidence(name: str, row: Mapping[str, float]) -> str:
  """The numbers that speak for it, and how a healthy target has them."""
  shown = {
    'target_std': f' (healthy: above {LOW_STD})',
    'cosine_across': f' (below {HIGH_COSINE})',
    'target_rank': f' (above {LOW_RANK})',
    'loss': '',
    'floor': ' for a constant prediction',
  }
  return ', '.join(
    f'{key} {row[f"{key}/{name}"]:.3g}{note}'
    for key, note in shown.items()
    if f'{key}/{name}' in row
  )


def _advice(name: str) -> str:
  """What keeps a target from collapsing, in the words of a config."""
  return (
    f"Try, in config.targets.{name}, representation.encoder='ema' with "
    "regularizer='stop_gradient' or 'covariance'; a predictor with batch norm, "
    "dict(kind='mlp', hidden=(4096,), norm='batch'); or "
    "distribution='boltzmann' with regularizer='negatives'. With these in "
    'place: a higher config.ema.start, a lower config.optimizer.learning_rate'
  )
