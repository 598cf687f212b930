"""HTML pages that open from disk, without a network or a build step."""
