"""One colour for each level: (fill, stroke), for light and for dark backgrounds; dark text is readable on every fill.

The hues are those of Okabe and Ito's palette, which colour-blind readers can tell apart.
"""

from __future__ import annotations

LIGHT = (
    ("#d6e8f5", "#0072b2"),
    ("#fbe3cf", "#b85600"),
    ("#d3efe4", "#00795a"),
    ("#f3dcea", "#a3497f"),
    ("#faf3c4", "#8a7a00"),
    ("#dceff9", "#2a7fae"),
)
DARK = (
    ("#173a52", "#6cb8ec"),
    ("#54300f", "#f0a35e"),
    ("#0e4536", "#4fd0a7"),
    ("#4c2440", "#e39cc6"),
    ("#4a4410", "#e6d84f"),
    ("#1e4254", "#8fd0f0"),
)
