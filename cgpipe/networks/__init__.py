"""Generators and discriminators, and the table of generators by name."""

from cgpipe.networks.base import Generator
from cgpipe.networks.generators import GENERATORS, all_settings, build_generator, effective_settings

__all__ = ["GENERATORS", "Generator", "all_settings", "build_generator", "effective_settings"]
