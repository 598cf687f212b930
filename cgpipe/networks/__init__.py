"""What computes: generators and discriminators, and a plain table of the generators' names."""

from cgpipe.networks.base import Generator
from cgpipe.networks.generators import GENERATORS, all_settings, build_generator, effective_settings

__all__ = ["GENERATORS", "Generator", "all_settings", "build_generator", "effective_settings"]
