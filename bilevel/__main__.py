"""`python -m bilevel` is the command `bilevel`; what both begin with."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; Ctrl-C while it is still being loaded is an interruption as any other."""
    try:
        from bilevel.command import main as command
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
