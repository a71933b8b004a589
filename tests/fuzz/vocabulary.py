"""What the system of fuzz tests knows: sizes, titles. Pure."""

from __future__ import annotations

SHARDS = 2
IMAGE_DIM = 24
TEXT_DIM = 16
INPUT_PX = 32  # Of the image model.
TITLES = ("red dress", "blue dress", "white mug", "black mug", "wooden table", "赤い靴")
