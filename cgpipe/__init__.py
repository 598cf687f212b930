"""cgpipe translates folders of pictures and videos with CycleGAN generators."""

from __future__ import annotations

__version__ = "0.1.0"
