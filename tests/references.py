"""Losses of published methods once more: NumPy, float64, by their definitions.

They share nothing with the package. Each names the public source whose formula
it is; the shapes are p, z [B, D] or [B, L, D] for prediction and target.
"""

import numpy as np


def unit(x):
  x = np.asarray(x, np.float64)
  return x / np.sqrt((x**2).sum(-1, keepdims=True))


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def gradient(f, x, step=1e-5):
  """df/dx by central differences, entry by entry; error about step^2."""
  x = np.array(x, np.float64)
  found = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    ends = []
    for sign in (1, -1):
      moved = x.copy()
      moved[index] += sign * step
      ends.append(f(moved))
    found[index] = (ends[0] - ends[1]) / (2 * step)
  return found


def info_nce(p, z, tau, valid=None, symmetric=False):
  """CE of each pair among the valid ones, one way or the mean of both.

  Oord et al. 2018, eq. 4; both ways: CLIP (Radford et al. 2021), figure 3.
  """
  kept = np.arange(len(p)) if valid is None else np.flatnonzero(valid)
  p, z = unit(p)[kept], unit(z)[kept]
  terms = []
  for n in range(len(kept)):
    term = -log_softmax(z @ p[n] / tau)[n]
    if symmetric:
      term = (term - log_softmax(p @ z[n] / tau)[n]) / 2
    terms.append(term)
  return np.mean(terms)


def moco_v3(q, k, tau=0.2):
  """2 tau CE(q k' / tau): facebookresearch/moco-v3, contrastive_loss."""
  return 2 * tau * info_nce(q, k, tau)


def dense_info_nce(p, z, tau=0.2):
  """InfoNCE among all locations of all pictures of the batch.

  DenseCL (Wang et al. 2021), its dense loss; the batch in place of the queue.
  """
  return info_nce(p.reshape(-1, p.shape[-1]), z.reshape(-1, z.shape[-1]), tau)


def byol(p, z):
  """2 - 2 cos: Grill et al. 2020, eq. 2."""
  return np.mean([2 - 2 * unit(a) @ unit(b) for a, b in zip(p, z, strict=True)])


def simsiam(p, z):
  """-cos: Chen and He 2021, eq. 1, one of its two halves."""
  return -np.mean([unit(a) @ unit(b) for a, b in zip(p, z, strict=True)])


def correlation(a, b, eps=1e-5):
  """C [D, D] of two batches, each channel standardised over the batch.

  By the biased variance: the BatchNorm of facebookresearch/barlowtwins.
  """
  size, width = a.shape
  found = np.zeros((width, width))
  for i in range(width):
    for j in range(width):
      x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
      scale = np.sqrt((x @ x / size + eps) * (y @ y / size + eps))
      found[i, j] = x @ y / size / scale
  return found


def barlow_twins(a, b, weight=0.0051, eps=1e-5):
  """sum_i (1 - C_ii)^2, weight sum_i sum_{j != i} C_ij^2, as a pair.

  Zbontar et al. 2021, eq. 1; the loss is their sum.
  """
  c = correlation(a, b, eps)
  same = np.eye(len(c), dtype=bool)
  return ((1 - c[same]) ** 2).sum(), weight * (c[~same] ** 2).sum()


def dino(student, teacher, centre, student_tau=0.1, teacher_tau=0.04):
  """CE of the student to the centred, sharpened teacher.

  Caron et al. 2021, algorithm 1; outputs [B, K], centre [K].
  """
  t = softmax((teacher - centre) / teacher_tau)
  return -(t * log_softmax(student / student_tau)).sum(-1).mean()


def dino_centre(centre, teacher, momentum=0.9):
  """The centre after a step: Caron et al. 2021, eq. 4."""
  return momentum * centre + (1 - momentum) * teacher.mean(0)


def assignment(z, prototypes, tau):
  """softmax of the cosines to the prototypes [K, D] over tau: [B, K]."""
  return softmax(unit(z) @ unit(prototypes).T / tau)


def msn_target(z, prototypes, tau=0.1, sharpening=0.25):
  """Assignments raised to 1 / sharpening, normalised again; no gradient.

  Assran et al. 2022, section 3; facebookresearch/msn, src/losses.py.
  """
  share = assignment(z, prototypes, tau) ** (1 / sharpening)
  return share / share.sum(-1, keepdims=True)


def msn(p, target, prototypes, tau=0.1):
  """(cross-entropy, log K - H(mean prediction)), whose sum is the loss."""
  predicted = assignment(p, prototypes, tau)
  mean = predicted.mean(0)
  entropy = -(mean * np.log(mean)).sum()
  cross = -(target * np.log(predicted)).sum(-1).mean()
  return cross, np.log(len(prototypes)) - entropy


def siglip(p, z, log_t, bias, valid=None):
  """Pairs' log-sigmoid losses, summed and divided by B (of the valid).

  Zhai et al. 2023, algorithm 1.
  """
  kept = np.arange(len(p)) if valid is None else np.flatnonzero(valid)
  p, z = unit(p)[kept], unit(z)[kept]
  total = 0.0
  for i in range(len(kept)):
    for j in range(len(kept)):
      logit = np.exp(log_t) * p[i] @ z[j] + bias
      total += np.log1p(np.exp(-logit if i == j else logit))
  return total / len(kept)


def gaussian(p, z):
  """Mean square over pictures, cells and channels."""
  return ((np.float64(p) - z) ** 2).mean()


def cross_entropy(logits, index, smoothing=0.0):
  """With a share `smoothing` of the target spread over all classes.

  Szegedy et al. 2016, section 7; [B, C] and int [B], mean over B.
  """
  terms = []
  for row, k in zip(log_softmax(np.float64(logits)), index, strict=True):
    terms.append(-(1 - smoothing) * row[k] - smoothing * row.mean())
  return np.mean(terms)


def covariance(p, z, weight=0.02):
  """weight E[p' C p] / D with C = E[z z'] over all tokens.

  The negative term of SiameseIM (Tao et al. 2022), after UniGrad (2021).
  """
  p, z = (np.float64(x).reshape(-1, x.shape[-1]) for x in (p, z))
  c = sum(np.outer(t, t) for t in z) / len(z)
  return weight * np.mean([x @ c @ x for x in p]) / p.shape[-1]
