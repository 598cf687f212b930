"""Pages of HTML that open from disk, without a network and without anything to build."""
