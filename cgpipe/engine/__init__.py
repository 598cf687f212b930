"""Fast and faithful: what runs a generator over a stream of pictures."""
