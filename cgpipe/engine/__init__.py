"""Runs a generator over a stream of pictures."""
