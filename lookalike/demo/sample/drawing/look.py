"""What one product looks like: all that a drawing may depend on."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from lookalike.demo.sample.drawing.palette import RGB, darker, lighter
from lookalike.demo.sample.drawing.patterns import SOLID, Pattern
from lookalike.demo.sample.drawing.pen import Pen


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    variant: str
    main: RGB
    accent: RGB
    pattern: Pattern = SOLID
    rng: random.Random

    def cloth(self, pen: Pen) -> RGB | Image.Image:
        """The paint of the product's printed part."""
        return self.main if self.pattern is SOLID else self.pattern.cloth(pen, self.main, self.accent, self.rng)

    def about(self, value: float, spread: float = 0.08) -> float:
        """A measure that differs a little from one product to the next."""
        return value * self.rng.uniform(1 - spread, 1 + spread)

    @property
    def dark(self) -> RGB:
        return darker(self.main)

    @property
    def light(self) -> RGB:
        return lighter(self.main)
