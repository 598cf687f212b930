"""Networks on pictures larger than memory: tile by tile, equal to the result of the whole picture."""
