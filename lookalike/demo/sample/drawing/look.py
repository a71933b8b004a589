"""How one product looks: everything that its drawing depends on. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from lookalike.demo.sample.drawing.palette import RGB, darker, lighter
from lookalike.demo.sample.drawing.patterns import SOLID, Pattern
from lookalike.demo.sample.drawing.pen import Pen


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The variant, colours, pattern and random numbers that a product is drawn with."""

    variant: str
    main: RGB
    accent: RGB
    pattern: Pattern = SOLID
    rng: random.Random

    def cloth(self, pen: Pen) -> RGB | Image.Image:
        """The paint of the product's patterned part."""
        return self.main if self.pattern is SOLID else self.pattern.cloth(pen, self.main, self.accent, self.rng)

    def vary(self, value: float, spread: float = 0.08) -> float:
        """`value`, changed at random by up to `spread`, so that products differ a little."""
        return value * self.rng.uniform(1 - spread, 1 + spread)

    @property
    def dark(self) -> RGB:
        return darker(self.main)

    @property
    def light(self) -> RGB:
        return lighter(self.main)
