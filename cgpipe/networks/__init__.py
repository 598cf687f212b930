"""What computes: generators and discriminators, and a plain table of the generators' names."""

from cgpipe.networks.generators import GENERATORS, Generator, build_generator

__all__ = ["GENERATORS", "Generator", "build_generator"]
