"""`python -m bilevel` is the command `bilevel`."""

from __future__ import annotations

import sys

from bilevel.command import main

if __name__ == "__main__":
    sys.exit(main())
