"""Sounds: [1, L], one channel of long windows."""
