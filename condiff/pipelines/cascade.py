"""Pictures of any size: a model samples at a small size, a second stage enlarges.

The second stage is a finish along the lines of the drawing, a second model, or plain resampling.
The second model is conditional diffusion super-resolution (SR3, Saharia et al. 2021,
arXiv:2104.07636) in a cascade (Ho et al. 2021, arXiv:2106.15282); its condition includes the lines
at full size.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from PIL import Image

from condiff.backends.table import Backend
from condiff.checks import as_count, as_int_within, as_seed, check_kind
from condiff.color.edits import NO_EDITS, ColorEdits
from condiff.conditions.drawing_cleanup import LARGEST, Drawing, shrink_ink
from condiff.config import SamplingConfig
from condiff.diffusion.sampler import NoiseSource
from condiff.diffusion.tiles import plan_tiles, predict_in_tiles
from condiff.errors import ConfigError
from condiff.inputs import Lines, Opened, UserPicture
from condiff.models.info import ModelInfo
from condiff.photos.metadata import Metadata
from condiff.photos.photo import Photo, as_memory_error
from condiff.photos.provenance import DRAWN, add_provenance
from condiff.pipelines.pipeline import Encoded, Pipeline, find_sampler, open_model
from condiff.resize import FACTORS, bring_up, fit_size, pad_to_stride

UPSCALER = "upscale"  # the embedded model's name
ENLARGING = SamplingConfig(steps=2)  # more steps add grain: docs/notes/decisions.md
TILE = 2  # side of a tile, as a multiple of the training size
OVERLAP = 4  # neighbouring tiles share at least a quarter of their side
TONE = 2.0  # sigma of the blur that extracts tone, in pixels of the small picture


class Upscaler:
    """A loaded model of the task upscale."""

    def __init__(self, loaded: ModelInfo, backend: Backend):
        if not loaded.task.enlarges:
            raise ConfigError(
                f"The model {loaded.name} is of the task {loaded.task.name} and does not "
                "enlarge: give a model of the task upscale, or none."
            )
        self.loaded, self.backend = loaded, backend

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = UPSCALER,
        *,
        device: str = "auto",
        engine: str = "auto",
        threads: int = 1,
    ) -> Self:
        """The embedded model of that name, or the model folder at that path."""
        return cls(*open_model(name, device=device, engine=engine, threads=threads))

    def __call__(
        self,
        picture: Image.Image,
        drawing: Drawing,
        *,
        size: int,
        seed: int,
        config: SamplingConfig = ENLARGING,
        tile: int | None = None,
        keep_tone: bool = True,
    ) -> Image.Image:
        """The picture in RGB, enlarged to a short side of `size`; unchanged if it is as large.

        `drawing` are the lines of the picture, at any size. If `size` exceeds the largest trained
        factor, several stages are used. A result depends on the arguments only; of `config`, on
        steps and scheduler. `tile` is the side of a tile in pixels. `keep_tone` gives the result
        the small picture's low-frequency colours.
        """
        check_kind("picture", picture, Image.Image)
        check_kind("drawing", drawing, Drawing)
        check_kind("config", config, SamplingConfig)
        size, seed = as_int_within("size", size, 1), as_seed(seed)
        small = np.asarray(picture.convert("RGB"))
        width, height = enlarged_size(picture.size, size)
        while small.shape[:2] != (height, width):
            scale = min(1.0, max(FACTORS) * small.shape[0] / height)
            stage = (width, height)
            if scale < 1:
                stage = (round(scale * width), max(FACTORS) * small.shape[0])
            lines = shrink_ink(drawing.ink, *stage)
            large = self.enlarge(small, lines, seed=seed, config=config, tile=tile)
            small = _match_tone(large, small) if keep_tone else large
        return Image.fromarray(small)

    def enlarge(
        self,
        small: np.ndarray,
        ink: np.ndarray,
        *,
        seed: int,
        config: SamplingConfig = ENLARGING,
        tile: int | None = None,
    ) -> np.ndarray:
        """One stage: RGB (h,w,3) uint8 enlarged to the size of its lines, ink (H,W) uint8."""
        task, backend = self.loaded.task, self.backend
        height, width = ink.shape
        brought = bring_up(small, width=width, height=height).clip(0, 255)
        condition = np.concatenate([brought, ink[..., None].astype(np.float32)], axis=2)
        stride = self.loaded.unet_stride
        padded = pad_to_stride(condition / np.float32(127.5) - 1, stride)
        given = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        size = (padded.shape[0], padded.shape[1])
        side = TILE * self.loaded.sample_size if tile is None else tile
        side = max(stride, side // stride * stride)
        tiles = plan_tiles(*size, side=side, overlap=side // OVERLAP)
        cond, _ = backend.encode(backend.to_device(given), None, size, guided=False)
        weight = backend.to_device(tiles.weight)

        def predict(x_t: Any, t: float) -> Any:
            def one(part: Any, cond: Any) -> Any:
                return backend.predict(part, t, cond)

            return predict_in_tiles(one, x_t, cond, tiles=tiles, weight=weight)

        source = NoiseSource(seed)

        def sample_noise(shape: tuple[int, ...]) -> Any:
            return backend.to_device(source(shape))

        *_, x_0 = find_sampler(config.scheduler)(
            predict,
            sample_noise((1, task.space.channels, *size)),
            scheduler=config.scheduler,
            config=self.loaded.diffusion,
            steps=config.steps,
            clip=task.space.clip,
            sample_noise=sample_noise,
        )
        x_0 = backend.to_numpy(x_0)
        pixels = (x_0[0, :, :height, :width].clip(-1, 1).transpose(1, 2, 0) + 1) * 127.5
        return np.ascontiguousarray(pixels.round().astype(np.uint8))


def enlarged_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture enlarged to a short side; never smaller than it is."""
    wanted = fit_size(size, size=side, cell=1)
    return max(size, wanted, key=lambda sides: sides[0] * sides[1])


def resample(picture: Image.Image, size: int) -> Image.Image:
    """The picture enlarged to a short side of `size` by Lanczos resampling."""
    wanted = enlarged_size(picture.size, size)
    return picture if wanted == picture.size else picture.resize(wanted, Image.Resampling.LANCZOS)


def _match_tone(large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """RGB (H,W,3) with the low-frequency colours of a smaller picture (h,w,3)."""
    height, width = small.shape[:2]
    shrunk = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    off = cv2.GaussianBlur(small.astype(np.float32) - shrunk, (0, 0), TONE)
    off = bring_up(off, width=large.shape[1], height=large.shape[0])
    return (large + off).clip(0, 255).round().astype(np.uint8)


AUTO, LINES, NONE = "auto", "lines", "none"  # --upscale, besides names of models


@dataclass(frozen=True)
class Cascade:
    """A model of pictures, from lines or from noise alone, and a second stage that enlarges them.

    With `along_lines` a picture is finished along the lines of its drawing, at the drawing's size
    or with a short side of `size`. Otherwise its short side is `size`: up to the model's native
    side, pictures are sampled at `size`; larger ones are sampled at the native side and enlarged
    by the upscaler, or resampled if there is none.
    """

    pipeline: Pipeline
    size: int | None
    upscaler: Upscaler | None = None
    along_lines: bool = False
    remark: str = ""  # for the user: why no upscaler is used

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
        """A cascade of a loaded pipeline.

        `upscale` names a model of the task upscale; "lines" finishes along the drawing's lines,
        "none" resamples, and "auto" takes the model named in the folder, else the lines, else
        resampling. `size` defaults to the drawing's size along lines, else to the model's condition
        size. Raises ConfigError if the pipeline's model does not make pictures, or for a size below
        1.
        """
        if size is not None:
            size = as_int_within("size", size, 1)
        loaded, name = pipeline.loaded, pipeline.loaded.name
        _refuse_other_tasks(loaded)
        has_lines = isinstance(loaded.task.picture, Lines)
        automatic = upscale == AUTO
        if automatic:
            upscale = (loaded.second_stage or LINES) if has_lines else NONE
        if upscale != NONE and not has_lines:
            raise ConfigError(
                f"--upscale {upscale} enlarges along the lines of a drawing, but the model {name} "
                "takes none: use --upscale none."
            )
        if upscale == LINES:
            return cls(pipeline, size, along_lines=True)
        size = loaded.condition_size if size is None else size
        if size <= loaded.native_side:
            idle = f"{name} samples at {loaded.native_side}: nothing is enlarged to {size}"
            return cls(pipeline, size, remark="" if automatic or upscale == NONE else idle)
        if upscale == NONE:
            plain = "there are no lines: resampled plainly"
            return cls(pipeline, size, remark=plain if automatic else "")
        upscaler = Upscaler.from_pretrained(
            upscale, device=pipeline.device, engine=engine, threads=threads
        )
        return cls(pipeline, size, upscaler)

    @property
    def native_side(self) -> int:
        """The largest short side at which the model samples."""
        return self.pipeline.loaded.native_side

    @property
    def enlarges(self) -> int | None:
        """The short side to which a sample is enlarged; None if it is not."""
        enlarged = not self.along_lines and self.size is not None and self.size > self.native_side
        return self.size if enlarged else None

    def _configure(self, config: SamplingConfig | None) -> SamplingConfig:
        """Sampling settings of the first stage: at its native side, or below for small pictures."""
        config, size = self.sampling if config is None else config, None
        check_kind("config", config, SamplingConfig)
        if self.along_lines:
            return config
        if self.size is not None and self.size < self.native_side:
            size = self.size * self.pipeline.loaded.drawn_cell
        return config.model_copy(update={"size": size})

    @property
    def lines_side(self) -> int:
        """The short side of the lines as a condition; with two stages, the larger one."""
        seen = self.pipeline.loaded.condition_size
        if self.along_lines or self.size is None:
            return self.size or seen
        return max(self.size, min(self.size, self.native_side) * self.pipeline.loaded.drawn_cell)

    def fit(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the result for a drawing of this (width, height)."""
        if self.along_lines:
            own = min(1.0, LARGEST / max(sides))
            scale = own if self.size is None else self.size / min(sides)
            return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))
        size, drawn = self.size or self.native_side, self.pipeline.loaded.drawn_cell
        seen = min(size, self.native_side) * drawn
        width, height = fit_size(sides, size=seen, cell=self.pipeline.cell)
        small = width // drawn, height // drawn
        return enlarged_size(small, size) if self.enlarges else small

    @property
    def sampling(self) -> SamplingConfig:
        """Default sampling settings of the first stage."""
        return self.pipeline.sampling

    @as_memory_error()
    def __call__(
        self,
        image: UserPicture | Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        seed: int | None = None,
        samples: int = 1,
        edits: ColorEdits = NO_EDITS,
    ) -> list[Image.Image]:
        """One picture for each of the seeds seed, seed + 1, …; `config` is the model's if None."""
        check_kind("edits", edits, ColorEdits)
        seed, samples = secrets.randbits(31) if seed is None else as_seed(seed), as_count(samples)
        opened = self.open(image, as_is=edits.as_is)
        encoded = self.encode(opened, config=config, edits=edits)
        return [
            self.sample(encoded, opened, config=config, seed=number)
            for number in range(seed, seed + samples)
        ]

    def open(self, image: UserPicture | Opened | None, *, as_is: bool = False) -> Opened | None:
        """Convert a user's picture to the model's input; None for none."""
        if image is None or isinstance(image, Opened):
            return image
        return self.pipeline.loaded.open(image, as_is=as_is)

    def encode(
        self,
        opened: Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        edits: ColorEdits = NO_EDITS,
    ) -> Encoded:
        """Encode a picture for the first stage, once for any number of samples."""
        encoded = self.pipeline.encode(opened, config=self._configure(config), edits=edits)
        if not self.along_lines:
            return replace(encoded, source=None, flat=None)
        if opened is None or not isinstance(opened.picture, Drawing):
            return encoded
        width, height = self.fit(opened.size)
        return replace(encoded, source=shrink_ink(opened.picture.ink, width, height))

    def describe(self) -> dict[str, Any]:
        """Size and upscaling, for a note in the result."""
        how = LINES if self.along_lines else NONE
        if self.upscaler is not None:
            how = self.upscaler.loaded.name
        return {"size": self.size, "upscale": how}

    def note(
        self,
        picture: Image.Image,
        *,
        config: SamplingConfig,
        edits: ColorEdits = NO_EDITS,
        hints: Mapping[str, object] | None = None,
    ) -> Photo:
        """A result as a Photo in PNG with a note of how it was made.

        `hints` is their entry in the note: points, or the digest of their picture.
        """
        settings = {**config.note(), **self.describe(), **(hints or {})}
        if not edits.keep_lines:
            settings["keep_lines"] = False
        if edits.flat != 1:
            settings["flat"] = edits.flat
        metadata = add_provenance(
            Metadata(format="PNG"),
            model=self.pipeline.loaded.name,
            seed=picture.info["seed"],
            settings=settings,
            source_type=DRAWN,
        )
        return replace(Photo.from_image(picture), metadata=metadata)

    def sample(
        self,
        encoded: Encoded,
        opened: Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        seed: int,
    ) -> Image.Image:
        """One picture; `encoded` is the result of `encode` for the picture `opened`."""
        *_, x_0 = self.pipeline.sample(encoded, config=self._configure(config), seed=seed)
        return self.finish(x_0, encoded, opened, seed=seed)

    def finish(
        self, x_0: Any, encoded: Encoded, opened: Opened | None, *, seed: int
    ) -> Image.Image:
        """The picture at full size from x_0, the last that `Pipeline.sample` yields."""
        picture = Image.fromarray(self.pipeline.decode(x_0, encoded))
        if side := self.enlarges:
            drawing = opened.picture if opened else None
            if self.upscaler is None or not isinstance(drawing, Drawing):
                picture = resample(picture, side)
            else:
                picture = self.upscaler(picture, drawing, size=side, seed=seed)
        picture.info["seed"] = seed
        return picture

    def frames(
        self,
        opened: Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        seed: int,
        encoded: Encoded,
    ) -> Iterator[Image.Image]:
        """The picture of every x_t as the model samples it, pure noise first, the result last.

        `encoded` is the result of `encode` for the same picture.
        """
        x_t = None
        for x_t in self.pipeline.sample(encoded, config=self._configure(config), seed=seed):
            yield Image.fromarray(self.pipeline.decode(x_t, encoded))
        if self.enlarges:
            yield self.finish(x_t, encoded, opened, seed=seed)


def _refuse_other_tasks(loaded: ModelInfo) -> None:
    """Raise ConfigError for a model that does not make pictures, naming the right command."""
    name = loaded.name
    if loaded.task.enlarges:
        raise ConfigError(
            f"The model {name} enlarges pictures: give it with --upscale, and a model of drawings "
            "with -m."
        )
    if loaded.task.space.keeps_photo:
        raise ConfigError(
            f"The model {name} colours photos: use `condiff colorize`, or give a model of drawings "
            "with -m."
        )
