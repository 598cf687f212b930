"""Reads and writes pixels: frames, pictures, videos and colour."""
