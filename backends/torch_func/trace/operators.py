"""The namespace of the operators that kernels add to torch's."""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("bilevel", "DEF")
