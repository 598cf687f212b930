"""Picture files: formats, reading, writing, metadata and masks."""
