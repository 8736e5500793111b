"""Views of a plan, all made from its one JSON document: DOT, Mermaid, SVG and a page of HTML. Imports no torch.

Every level has one colour in all of them. Solid edges carry values, dotted ones derivatives, grey ones values whose
derivative is stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from bilevel.views.document import Document, read
from bilevel.views.dot import dot
from bilevel.views.mermaid import mermaid
from bilevel.views.page import page
from bilevel.views.svg import svg

FORMATS: dict[str, Callable[[Document], str]] = {"dot": dot, "mermaid": mermaid, "svg": svg, "html": page}

__all__ = ["FORMATS", "Document", "read"]
