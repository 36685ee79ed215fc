"""A drawing becomes pictures of any size: one model draws them small, a second one enlarges them.

It is what `condiff render` runs and what `condiff eval` judges.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image

from condiff.conditions.drawing import Drawing
from condiff.errors import ConfigError
from condiff.images.photo import Picture
from condiff.pipeline import SCHEDULER, Pipeline, fit_size, read_drawing
from condiff.upscale import Upscaler, enlarged_size, resample

AUTO, NONE = "auto", "none"  # what enlarges, where no model is named


@dataclass(frozen=True)
class Cascade:
    """A model of drawings or of nothing at work, and the second stage behind it.

    Pictures have a short side of `size`: drawn so where the model draws as large, else drawn at
    the model's own side, then enlarged by the upscaler, or plainly resampled where it is None.
    """

    pipeline: Pipeline
    size: int
    upscaler: Upscaler | None = None
    remark: str = ""  # what auto could not do, or what an upscaler was given for in vain

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "sketch",
        *,
        size: int | None = None,
        upscale: str = AUTO,
        device: str = "auto",
        engine: str = "auto",
        threads: int = 1,
    ) -> Self:
        """The embedded model of that name, or the model folder at that path; see `behind`."""
        pipeline = Pipeline.from_pretrained(name, device=device, engine=engine, threads=threads)
        return cls.behind(pipeline, size=size, upscale=upscale, engine=engine, threads=threads)

    @classmethod
    def behind(
        cls,
        pipeline: Pipeline,
        *,
        size: int | None = None,
        upscale: str = AUTO,
        engine: str = "auto",
        threads: int = 1,
    ) -> Self:
        """Pictures of `size`, by default of the side at which the model sees its lines.

        `upscale` is a model of the task upscale, auto for the one that the model names, or none.
        """
        loaded, name = pipeline.loaded, pipeline.loaded.folder.name
        if loaded.task.enlarges:
            raise ConfigError(
                f"The model {name} enlarges pictures: give it with --upscale, and a model of "
                "drawings with -m."
            )
        if loaded.task.x_0 != "rgb":
            raise ConfigError(
                f"The model {name} colours photos: use `condiff colorize`, or give a model of "
                "drawings with -m."
            )
        size = loaded.condition_size if size is None else size
        own = loaded.condition_size // pipeline.cell
        if size <= own:
            idle = upscale not in (AUTO, NONE)
            remark = f"{name} draws at {own}: nothing is enlarged to {size}" if idle else ""
            return cls(pipeline, size, remark=remark)
        second, lines = loaded.second_stage, loaded.task.condition_channels
        if upscale == NONE:
            return cls(pipeline, size)
        if upscale == AUTO and not (lines and second):
            why = f"{name} names no second stage" if lines else "there are no lines"
            return cls(pipeline, size, remark=f"{why}: resampled plainly")
        if not lines:
            raise ConfigError(
                f"--upscale {upscale} enlarges along the lines of a drawing, and the model {name} "
                "takes none: use --upscale none."
            )
        upscaler = Upscaler.from_pretrained(
            second if upscale == AUTO and second else upscale,
            device=pipeline.device,
            engine=engine,
            threads=threads,
        )
        return cls(pipeline, size, upscaler)

    @property
    def own(self) -> int:
        """The short side at which the model draws."""
        return self.pipeline.loaded.condition_size // self.pipeline.cell

    @property
    def drawn(self) -> int | None:
        """`size` of the pipeline: the side at which it sees lines, None for what it was trained."""
        return None if self.size >= self.own else self.size * self.pipeline.cell

    @property
    def lines_side(self) -> int:
        """The short side at which either stage sees the lines, the larger of both."""
        return max(self.size, min(self.size, self.own) * self.pipeline.cell)

    def fit(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the picture of a drawing, for the drawing's own."""
        cell = self.pipeline.cell
        wide, high = fit_size(sides, size=min(self.size, self.own) * cell, cell=cell)
        small = wide // cell, high // cell
        return enlarged_size(small, self.size) if self.size > self.own else small

    def __call__(
        self,
        image: Picture | Drawing | None = None,
        *,
        steps: int | None = None,
        scheduler: str = SCHEDULER,
        seed: int | None = None,
        samples: int = 1,
        guidance_scale: float | None = None,
        variety: float | None = None,
    ) -> list[Image.Image]:
        """Answer `samples` times, with the seeds seed, seed + 1, …, as `Pipeline` does."""
        if samples < 1:
            raise ConfigError(f"samples are at least 1, not {samples}.")
        seed = secrets.randbits(31) if seed is None else seed
        drawing = image if image is None or isinstance(image, Drawing) else read_drawing(image)
        pictures = []
        for number in range(seed, seed + samples):
            *_, picture = self.frames(
                drawing,
                steps=steps,
                scheduler=scheduler,
                seed=number,
                guidance_scale=guidance_scale,
                variety=variety,
            )
            picture.info["seed"] = number
            pictures.append(picture)
        return pictures

    def frames(
        self,
        drawing: Drawing | None = None,
        *,
        steps: int | None = None,
        scheduler: str = SCHEDULER,
        seed: int,
        guidance_scale: float | None = None,
        variety: float | None = None,
    ) -> Iterator[Image.Image]:
        """The model's x_t, small, pure noise first, then the picture where it was enlarged."""
        frame = None
        for frame in self.pipeline.frames(
            drawing,
            steps=steps,
            scheduler=scheduler,
            seed=seed,
            size=self.drawn,
            guidance_scale=guidance_scale,
            variety=variety,
        ):
            yield frame
        if frame is None or self.size <= self.own:
            return
        if self.upscaler is None or drawing is None:
            yield resample(frame, self.size)
        else:
            yield self.upscaler(frame, drawing, size=self.size, seed=seed)
