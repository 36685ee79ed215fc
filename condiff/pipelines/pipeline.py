"""The pipeline: a photo or a drawing in, finished pictures out."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from PIL import Image

from condiff.backends.table import Engine, build_engine, choose_engine, find_device
from condiff.color.edits import NO_EDITS, ColorEdits, PreparedEdits
from condiff.color.lab import join_chroma
from condiff.color.lab import lightness as lightness_of
from condiff.conditions.drawing_cleanup import Drawing, clean_drawing, shrink_ink
from condiff.config import SamplingConfig
from condiff.diffusion.sampler import SOLVERS, damp_broad_noise, draw_noise, guide, sample
from condiff.errors import ConfigError, ImageError
from condiff.models.info import ModelInfo, read_model_info
from condiff.photos.photo import Photo, Picture, as_memory_error, pixels_of, to_8_bits, with_pixels

MODEL_SIZE = 256  # short side of L* as the model sees it
MAX_ASPECT = 3  # a longer panorama is shrunk until its long side is this many times MODEL_SIZE
MIN_SIZE = 32  # the stride of the backbone
NOT_EDITED = PreparedEdits()


@dataclass(frozen=True)
class Encoded:
    """A picture as sampling needs it; arrays are the backend's."""

    source: np.ndarray | None  # the photo's RGB (H,W,3); None for a drawing or nothing
    edits: PreparedEdits
    cond: np.ndarray  # (1,K,h,w)
    null_cond: np.ndarray  # the condition that guidance leads away from
    size: tuple[int, int]  # of x_t, padded to the U-Net's stride
    inside: tuple[int, int]  # rows and columns of x_t that the picture covers


class Pipeline:
    """A model that is loaded: `Pipeline.from_pretrained("colorize")(image)` runs it."""

    def __init__(self, loaded: ModelInfo, engine: Engine):
        self.loaded, self.engine = loaded, engine

    @property
    def sampling(self) -> SamplingConfig:
        """How the model is sampled by default."""
        return self.loaded.sampling

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "colorize",
        *,
        device: str = "auto",
        engine: str = "auto",
        threads: int = 1,
    ) -> Self:
        """The embedded model of that name, or the model folder at that path.

        `engine` is torch, onnx or openvino; auto is onnx on a processor where the folder has
        graphs, else torch. Another number of processor threads rounds differently, so that results
        differ slightly.
        """
        folder = read_model_info(name)
        found = find_device(device, engine=engine)
        chosen = choose_engine(folder, engine, found)
        return cls(folder, build_engine(folder, chosen, device=found, threads=threads))

    @property
    def device(self) -> str:
        """Where the network runs: cpu, cuda, cuda:1 or mps."""
        return self.engine.device

    @property
    def cell(self) -> int:
        """How many pixels of the condition one pixel of x_t (a cell) is wide."""
        return self.loaded.cell

    @as_memory_error()
    def __call__(
        self,
        image: Picture | Drawing | None = None,
        *,
        seed: int | None = None,
        samples: int = 1,
        edits: ColorEdits = NO_EDITS,
        steps: int | None = None,
        scheduler: str | None = None,
        guidance_scale: float | None = None,
        variety: float | None = None,
        size: int | None = None,
    ) -> list[Picture]:
        """Make one result for each of the seeds seed, seed + 1, …, `samples` in all.

        A colorizer takes an image, or a Photo at its own depth; the result is of the same kind,
        with the photo's size, its L* and its alpha channel, and takes `edits` of the colours. A
        model of drawings takes a line drawing, which it cleans, or a Drawing; an unconditional one
        takes nothing. Both give an image at their own size.

        The other arguments are the fields of `SamplingConfig`; those that are None are the model
        folder's. A result depends only on the model and these arguments. Without a seed a new one
        is drawn; `info["seed"]` of each result contains its own. Raises ConfigError for arguments
        that the model cannot take, ImageError for a photo where a drawing is expected.
        """
        config = self.sampling.override(
            {
                "steps": steps,
                "scheduler": scheduler,
                "guidance_scale": guidance_scale,
                "variety": variety,
                "size": size,
            }
        )
        return list(self.run(image, config=config, seed=seed, samples=samples, edits=edits))

    def run(
        self,
        image: Picture | Drawing | None,
        *,
        config: SamplingConfig,
        seed: int | None = None,
        samples: int = 1,
        edits: ColorEdits = NO_EDITS,
    ) -> Iterator[Picture]:
        """Yield the results of `__call__`, whose settings are those of `config`."""
        if samples < 1:
            raise ConfigError(f"samples are at least 1, not {samples}.")
        seed = secrets.randbits(31) if seed is None else seed
        encoded = self.encode(image, config=config, edits=edits)
        for number in range(seed, seed + samples):
            *_, x_0 = self.sample(encoded, config=config, seed=number)
            yield self._result(self.decode(x_0, encoded), image, seed=number)

    def _result(self, pixels: np.ndarray, image: Picture | Drawing | None, *, seed: int) -> Picture:
        if not (image is None or isinstance(image, Drawing)) and self.loaded.task.x_0 == "chroma":
            return with_pixels(image, pixels, seed=seed)
        result = Image.fromarray(pixels)
        result.info["seed"] = seed
        return result  # type: ignore[return-value]  # image is None or of an RGB task

    def frames(
        self,
        image: Picture | Drawing | None = None,
        *,
        config: SamplingConfig | None = None,
        seed: int,
        edits: ColorEdits = NO_EDITS,
    ) -> Iterator[Image.Image]:
        """Yield the finished RGB picture of every x_t, pure noise first, the result last."""
        config = config or self.sampling
        encoded = self.encode(image, config=config, edits=edits)
        for x_t in self.sample(encoded, config=config, seed=seed):
            yield Image.fromarray(to_8_bits(self.decode(x_t, encoded)))

    def encode(
        self,
        image: Picture | Drawing | None = None,
        *,
        config: SamplingConfig | None = None,
        edits: ColorEdits = NO_EDITS,
    ) -> Encoded:
        """What sampling needs of a picture, and is computed once whatever the number of samples.

        The null condition is computed only if `config` has guidance. Raises ConfigError where the
        model takes another kind of picture, ImageError for a photo where a drawing is expected.
        """
        config = config or self.sampling
        source, condition = self.prepare(image, size=config.size)
        return self.encode_condition(
            condition, source, self._prepare_edits(source, condition, edits)
        )

    def encode_condition(
        self,
        condition: np.ndarray,
        source: np.ndarray | None = None,
        edits: PreparedEdits = NOT_EDITED,
    ) -> Encoded:
        """The same for a condition (H,W,N) in [-1,1] that is prepared already."""
        rows, columns = (side // self.cell for side in condition.shape[:2])
        padded = pad_to_stride(condition, self.loaded.stride)
        given = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        size = (padded.shape[0] // self.cell, padded.shape[1] // self.cell)
        scale = self.loaded.task.scale
        hints = edits.encode_hints(condition, cell=self.cell, scale=scale, size=size)
        cond, null_cond = self.engine.encode(given, hints, size)
        return Encoded(source, edits, cond, null_cond, size, (rows, columns))

    def sample(
        self, encoded: Encoded, *, config: SamplingConfig | None = None, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield x_T, then x_t after every step (h,w,C) float32.

        Images are sampled one at a time: a CPU gains nothing from a batch, and convolutions round
        differently in batches of different sizes, so that bytes would depend on the batch.
        """
        config = config or self.sampling
        task, engine = self.loaded.task, self.engine
        noise = draw_noise(seed, (1, task.out_channels, *encoded.size))
        noise = damp_broad_noise(noise, variety=config.variety)
        scale = config.guidance_scale if task.condition_channels else 1.0

        def predict(x_t: np.ndarray, t: float) -> np.ndarray:
            output = engine.predict(x_t, t, encoded.cond)
            if scale == 1:
                return output
            return guide(output, engine.predict(x_t, t, encoded.null_cond), scale)

        sampler = self._find_sampler(config.scheduler, seed=seed)
        rows, columns = encoded.inside
        for x_t in sampler(predict, noise, steps=config.steps, clip=task.clip):
            clipped = x_t[0].clip(-task.clip, task.clip).transpose(1, 2, 0)
            yield np.ascontiguousarray(clipped[:rows, :columns])

    def decode(self, x_0: np.ndarray, encoded: Encoded) -> np.ndarray:
        """x_0 (h,w,C) as RGB (H,W,3): as it is, or chroma joined to the photo's L*."""
        task = self.loaded.task
        if task.x_0 == "chroma" and encoded.source is not None:
            chroma = encoded.edits.keep_hints(x_0 * task.scale, encoded.source)
            return join_chroma(encoded.source, chroma, adjust=encoded.edits.adjust)
        return np.asarray((x_0.clip(-1, 1) + 1) * 127.5 + 0.5, np.uint8)

    def prepare(
        self, image: Picture | Drawing | None, *, size: int | None
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """The photo's RGB (H,W,3), None for drawings, and the condition (h,w,N) in [-1,1].

        The condition has the model's size. Raises ConfigError where the model takes another kind
        of input, ImageError where a drawing is expected and the image looks like a photo.
        """
        name, task = self.loaded.path.name, self.loaded.task
        if task.enlarges:
            raise ConfigError(
                f"The model {name} enlarges pictures: condiff.pipelines.cascade runs it."
            )
        chroma = task.x_0 == "chroma"
        side = self.loaded.condition_size if size is None else size
        least = min(MIN_SIZE, self.loaded.condition_size)
        if side < least:
            raise ConfigError(f"size is at least {least}, not {side}.")
        if not task.condition_channels:
            if image is not None:
                raise ConfigError(f"The model {name} is unconditional: it takes no picture.")
            return None, np.zeros((side, side, 0), np.float32)
        if image is None:
            raise ConfigError(f"The model {name} takes a {'photo' if chroma else 'drawing'}.")
        if not chroma:
            drawing = image if isinstance(image, Drawing) else read_drawing(image)
            return None, self._lines(drawing.ink, side)
        if isinstance(image, Drawing):
            raise ConfigError(f"The model {name} takes a photo, not a drawing.")
        pixels = pixels_of(image)
        L = small_lightness(pixels, size=side, cell=self.cell)
        return pixels, L[..., None] / 50 - 1

    def _lines(self, ink: np.ndarray, side: int) -> np.ndarray:
        """Ink (H,W) as the condition (h,w,1): ink 1, paper -1, as in training."""
        width, height = fit_size((ink.shape[1], ink.shape[0]), size=side, cell=self.cell)
        return shrink_ink(ink, width, height)[..., None] / np.float32(127.5) - 1

    def _prepare_edits(
        self, source: np.ndarray | None, condition: np.ndarray, edits: ColorEdits
    ) -> PreparedEdits:
        """The edits of a photo (H,W,3), hints at the condition's size."""
        if source is None or self.loaded.task.x_0 != "chroma":
            if changed := edits.changed():
                name = self.loaded.path.name
                raise ConfigError(f"The model {name} is not a colorizer: it takes no {changed[0]}.")
            return NOT_EDITED
        photo = (source.shape[1], source.shape[0])
        return edits.prepare(photo=photo, size=(condition.shape[0], condition.shape[1]))

    def _find_sampler(self, scheduler: str, *, seed: int) -> Callable[..., Iterator[np.ndarray]]:
        """The sampling function of a scheduler: in NumPy where there is one, else by diffusers."""
        if scheduler in SOLVERS:
            return partial(sample, scheduler=scheduler, config=self.loaded.diffusion)
        if not find_spec("diffusers"):
            raise ConfigError(
                f"The scheduler {scheduler} needs torch and diffusers: pip install torch "
                f"diffusers, or use {' or '.join(SOLVERS)}."
            )
        from condiff.diffusion.diffusers_schedulers import sample_with_diffusers

        return partial(
            sample_with_diffusers, scheduler=scheduler, config=self.loaded.diffusion, seed=seed
        )


def shrink_to(pixels: np.ndarray, *, size: int = MODEL_SIZE, cell: int = 4) -> np.ndarray:
    """A picture (H,W,3) resized to the model's size, its aspect kept.

    The short side becomes `size`; the long side at most MAX_ASPECT times that, the short side then
    less. Both are the nearest multiples of `cell`, so that the cells of x_t cover them exactly.
    """
    height, width = pixels.shape[:2]
    target = fit_size((width, height), size=size, cell=cell)
    if target == (width, height):
        return pixels
    shrinks = size < min(height, width) or MAX_ASPECT * size < max(height, width)
    small = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(small, pixels.dtype)


def fit_size(sides: tuple[int, int], *, size: int, cell: int) -> tuple[int, int]:
    """Width and height at the model's size, from a picture's own, by the rules of `shrink_to`."""
    scale = min(size / min(sides), MAX_ASPECT * size / max(sides))
    width, height = (max(cell, round(side * scale / cell) * cell) for side in sides)
    return width, height


def small_lightness(pixels: np.ndarray, *, size: int = MODEL_SIZE, cell: int = 4) -> np.ndarray:
    """L* (h,w) in [0,100] of a photo (H,W,3) resized to the model's size."""
    return lightness_of(shrink_to(pixels, size=size, cell=cell))


def read_drawing(picture: Picture) -> Drawing:
    """A picture as a drawing; ImageError if it looks like a photo."""
    if isinstance(picture, Photo):
        drawing = clean_drawing(picture.pixels, picture.alpha)
    else:
        photo = Photo.from_image(picture)
        drawing = clean_drawing(photo.pixels, photo.alpha)
    if drawing.doubt:
        raise ImageError(f"cannot take this picture: {drawing.doubt}")
    return drawing


def pad_to_stride(condition: np.ndarray, stride: int) -> np.ndarray:
    """(H,W,N) mirrored at its right and lower edge up to multiples of the stride."""
    pad = [(0, -side % stride) for side in condition.shape[:2]]
    return np.pad(condition, [*pad, (0, 0)], mode="symmetric")
