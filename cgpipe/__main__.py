"""``python -m cgpipe``."""

from __future__ import annotations

from cgpipe.cli import main

if __name__ == "__main__":
    main()
