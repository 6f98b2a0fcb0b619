"""Purify your own images: pictures in a folder, or arrays in a file."""
