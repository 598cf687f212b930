"""Pixels in and out: frames, pictures, videos and colour."""
