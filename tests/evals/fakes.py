"""Features given as arrays."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Arrays:
  """Images and labels by split; texts embedded by a table."""

  pictures: dict
  fields: dict
  table: dict | None = None

  @property
  def has_text(self):
    return self.table is not None

  def images(self, split):
    return np.asarray(self.pictures[split], np.float32)

  def labels(self, split, field):
    return np.array(self.fields[split][field])

  def texts(self, texts):
    return np.array([self.table[text] for text in texts], np.float32)
