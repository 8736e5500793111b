"""The namespace of the operators that kernels add to torch's."""

from __future__ import annotations

from typing import Any

import torch

_torch: Any = torch.library  # it has no types
LIBRARY: Any = _torch.Library("bilevel", "DEF")
