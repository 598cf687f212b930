"""``python -m cgpipe``, and the command ``cgpipe``."""

from __future__ import annotations

import sys

from cgpipe.bytecode import keep_bytecode


def main() -> None:
    """Runs the command line."""
    try:
        keep_bytecode()
        from cgpipe.cli import main as run  # the first of many imports
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
