"""Pictures of any size from a drawing: one model draws them small, a second one enlarges them.

`condiff render` runs it, and `condiff eval` measures it.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image

from condiff.conditions.drawing_cleanup import Drawing
from condiff.errors import ConfigError
from condiff.models.info import ModelInfo
from condiff.photos.photo import Picture
from condiff.pipeline import SCHEDULER, Pipeline, fit_size, read_drawing
from condiff.upscale import Upscaler, enlarged_size, resample

AUTO, NONE = "auto", "none"  # --upscale, where it names no model


@dataclass(frozen=True)
class Cascade:
    """A model that draws pictures, from lines or from noise alone, and what enlarges them.

    Pictures have a short side of `size`. Up to the model's native side they are drawn at that size.
    Larger ones are drawn at the native side and enlarged by the upscaler, or resampled without one.
    """

    pipeline: Pipeline
    size: int
    upscaler: Upscaler | None = None
    remark: str = ""  # for the user: why there is no upscaler, or why it has nothing to do

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
        """A cascade of the embedded model of that name, or of the model folder at that path.

        `behind` explains size and upscale, `Pipeline.from_pretrained` the rest.
        """
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
        """A cascade of a pipeline that is loaded already.

        `size` is by default the side at which the model sees lines. `upscale` names a model of the
        task upscale; "auto" takes the one that the model folder names, "none" resamples. Raises
        ConfigError where the pipeline's model draws no pictures.
        """
        loaded, name = pipeline.loaded, pipeline.loaded.path.name
        _refuse_other_tasks(loaded)
        size = loaded.condition_size if size is None else size
        native_side = loaded.condition_size // pipeline.cell
        if size <= native_side:
            idle = upscale not in (AUTO, NONE)
            remark = f"{name} draws at {native_side}: nothing is enlarged to {size}" if idle else ""
            return cls(pipeline, size, remark=remark)
        if upscale == NONE:
            return cls(pipeline, size)
        second, has_lines = loaded.second_stage, bool(loaded.task.condition_channels)
        if upscale == AUTO and not (has_lines and second):
            why = f"{name} names no second stage" if has_lines else "there are no lines"
            return cls(pipeline, size, remark=f"{why}: resampled plainly")
        if not has_lines:
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
    def native_side(self) -> int:
        """The largest short side at which the model draws: that of x_t in training."""
        return self.pipeline.loaded.condition_size // self.pipeline.cell

    @property
    def _pipeline_size(self) -> int | None:
        """The `size` to call the pipeline with: None is the one it was trained with."""
        return None if self.size >= self.native_side else self.size * self.pipeline.cell

    @property
    def lines_side(self) -> int:
        """The larger of the short sides at which the two stages see the lines."""
        return max(self.size, min(self.size, self.native_side) * self.pipeline.cell)

    def fit(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the picture that is made of a drawing of this (width, height)."""
        cell = self.pipeline.cell
        width, height = fit_size(sides, size=min(self.size, self.native_side) * cell, cell=cell)
        small = width // cell, height // cell
        return enlarged_size(small, self.size) if self.size > self.native_side else small

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
        """One picture for each of the seeds seed, seed + 1, …; arguments are `Pipeline`'s."""
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
        """The pipeline's frames, pure noise first, then the enlarged picture if it is larger."""
        frame = None
        for frame in self.pipeline.frames(
            drawing,
            steps=steps,
            scheduler=scheduler,
            seed=seed,
            size=self._pipeline_size,
            guidance_scale=guidance_scale,
            variety=variety,
        ):
            yield frame
        if frame is None or self.size <= self.native_side:
            return
        if self.upscaler is None or drawing is None:
            yield resample(frame, self.size)
        else:
            yield self.upscaler(frame, drawing, size=self.size, seed=seed)


def _refuse_other_tasks(loaded: ModelInfo) -> None:
    """Raise ConfigError for a model that draws no pictures, naming what to use it with."""
    name = loaded.path.name
    if loaded.task.enlarges:
        raise ConfigError(
            f"The model {name} enlarges pictures: give it with --upscale, and a model of drawings "
            "with -m."
        )
    if loaded.task.x_0 != "rgb":
        raise ConfigError(
            f"The model {name} colours photos: use `condiff colorize`, or give a model of drawings "
            "with -m."
        )
