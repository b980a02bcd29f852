"""Weights of an encoder: in files, and under the names of other projects."""

from m3i_jax.weights.files import describe, load, save

__all__ = ['describe', 'load', 'save']
