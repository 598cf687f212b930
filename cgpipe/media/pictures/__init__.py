"""Picture files: the formats, reading, writing, what is kept beside the pixels, and masks."""
