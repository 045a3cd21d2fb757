"""Numerical kernels. They import torch, triton, numba and numpy, and nothing of fastvarcon.

Import them as `fastvarcon.kernels`; the top-level folder is a link target, not a package name.
"""

from .reference import views

__all__ = ["views"]
