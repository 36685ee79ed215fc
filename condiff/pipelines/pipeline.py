"""The pipeline: a photo or a drawing in, finished pictures out."""

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from PIL import Image

from condiff.backends.table import Engine, build_engine, choose_engine, find_device
from condiff.color.edits import NO_EDITS, ColorEdits, build_edits, names_of
from condiff.color.hints import Hints
from condiff.color.lab import join_chroma
from condiff.color.lab import lightness as lightness_of
from condiff.conditions.drawing_cleanup import Drawing, clean_drawing, shrink_ink
from condiff.diffusion.sampler import SOLVERS, damp_broad_noise, draw_noise, guide, sample
from condiff.errors import ConfigError, ImageError
from condiff.models.info import ModelInfo, read_model_info
from condiff.photos.photo import Photo, Picture, as_memory_error, pixels_of, to_8_bits, with_pixels

STEPS = 4
DEFAULT_STEPS = {"chroma": STEPS, "rgb": 25}
SCHEDULER = "ddim"
MODEL_SIZE = 256  # short side of L* as the model sees it
MAX_ASPECT = 3  # a longer panorama is shrunk until its long side is this many times MODEL_SIZE
MIN_SIZE = 32  # the stride of the backbone


class Pipeline:
    """A model that is loaded: `Pipeline.from_pretrained("colorize")(image)` runs it."""

    def __init__(self, loaded: ModelInfo, engine: Engine):
        self.loaded, self.engine = loaded, engine

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

    def find_guidance_scale(self, asked: float | None) -> float:
        """The guidance scale asked for, else the model folder's; 1 for an unconditional model."""
        if not self.loaded.task.condition_channels:
            return 1.0
        return self.loaded.guidance_scale if asked is None else asked

    def find_variety(self, asked: float | None) -> float:
        """The variety asked for, else the model folder's."""
        return self.loaded.variety if asked is None else asked

    @as_memory_error()
    def __call__(
        self,
        image: Picture | Drawing | None = None,
        *,
        steps: int | None = None,
        scheduler: str = SCHEDULER,
        seed: int | None = None,
        samples: int = 1,
        size: int | None = None,
        guidance_scale: float | None = None,
        variety: float | None = None,
        hints: Hints = (),
        saturation: float = 1.0,
        temperature: float = 0.0,
    ) -> list[Picture]:
        """Make one result for each of the seeds seed, seed + 1, …, `samples` in all.

        A colorizer takes an image, or a Photo at its own depth; the result is of the same kind,
        with the photo's size, its L* and its alpha channel. A model of sketches or edges takes a
        line drawing, which it cleans, or a Drawing, and gives an image at its own size; an
        unconditional one takes nothing. `size` is the short side that the model sees (default: as
        it was trained): more detail, at a cost that grows with its square. `guidance_scale` above 1
        follows the lines more closely, or what a backbone knows of a photo's things: stronger
        colours (1: off, half the time). `variety` is how far answers may differ in broad areas,
        from 0, what is likeliest, to 1. Where one is None, the model folder says it.

        A colorizer also takes `hints`, a list of `Hint` or a transparent image of strokes: their
        colours are kept and spread over the objects that they lie on. `saturation` multiplies
        chroma, `temperature` shifts the white by so many mired towards warm, both at constant L*.

        A result depends only on the model and these arguments. Without a seed a new one is drawn;
        `info["seed"]` of each result holds its own. Raises ConfigError for arguments that the model
        cannot take, ImageError for a photo where a drawing is expected.
        """
        if samples < 1:
            raise ConfigError(f"samples are at least 1, not {samples}.")
        seed = secrets.randbits(31) if seed is None else seed
        pixels, condition = self.prepare(image, size=size)
        edits = self.prepare_wishes(
            pixels, condition, hints=hints, saturation=saturation, temperature=temperature
        )
        results = []
        for number in range(seed, seed + samples):
            *_, x_0 = self.denoise(
                condition,
                steps=steps,
                scheduler=scheduler,
                seed=number,
                guidance_scale=guidance_scale,
                variety=variety,
                edits=edits,
            )
            finished = self.finish(x_0, pixels, edits=edits)
            results.append(self._result(finished, image, seed=number))
        return results

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
        steps: int | None = None,
        scheduler: str = SCHEDULER,
        seed: int,
        size: int | None = None,
        guidance_scale: float | None = None,
        variety: float | None = None,
        hints: Hints = (),
        saturation: float = 1.0,
        temperature: float = 0.0,
    ) -> Iterator[Image.Image]:
        """Yield the finished RGB picture of every x_t, pure noise first, the result last."""
        pixels, condition = self.prepare(image, size=size)
        edits = self.prepare_wishes(
            pixels, condition, hints=hints, saturation=saturation, temperature=temperature
        )
        for x_t in self.denoise(
            condition,
            steps=steps,
            scheduler=scheduler,
            seed=seed,
            guidance_scale=guidance_scale,
            variety=variety,
            edits=edits,
        ):
            yield Image.fromarray(to_8_bits(self.finish(x_t, pixels, edits=edits)))

    def finish(
        self, x_0: np.ndarray, pixels: np.ndarray | None, *, edits: ColorEdits = NO_EDITS
    ) -> np.ndarray:
        """x_0 (h,w,C) as RGB (H,W,3): as it is, or chroma joined to the photo's L*."""
        task = self.loaded.task
        if task.x_0 == "chroma" and pixels is not None:
            chroma = edits.keep_hints(x_0 * task.scale, pixels)
            return join_chroma(pixels, chroma, adjust=edits.adjust)
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

    def prepare_wishes(
        self,
        pixels: np.ndarray | None,
        condition: np.ndarray,
        *,
        hints: Hints = (),
        saturation: float = 1.0,
        temperature: float = 0.0,
    ) -> ColorEdits:
        """Hints, saturation and temperature for a photo (H,W,3), hints at the condition's size."""
        if pixels is None or self.loaded.task.x_0 != "chroma":
            wanted = names_of(hints=hints, saturation=saturation, temperature=temperature)
            if wanted:
                name = self.loaded.path.name
                raise ConfigError(f"The model {name} is no colorizer: it takes no {wanted[0]}.")
            return NO_EDITS
        return build_edits(
            photo=(pixels.shape[1], pixels.shape[0]),
            size=(condition.shape[0], condition.shape[1]),
            hints=hints,
            saturation=saturation,
            temperature=temperature,
        )

    def denoise(
        self,
        condition: np.ndarray,
        *,
        steps: int | None = None,
        scheduler: str = SCHEDULER,
        seed: int,
        guidance_scale: float | None = None,
        variety: float | None = None,
        edits: ColorEdits = NO_EDITS,
    ) -> Iterator[np.ndarray]:
        """Yield x_T, then x_t after every step (h,w,C), for a condition (H,W,N), h = H/cell.

        Images are sampled one at a time: a CPU gains nothing from a batch, and convolutions round
        differently in batches of different sizes, so that bytes would depend on the batch.
        """
        task, engine = self.loaded.task, self.engine
        steps = DEFAULT_STEPS[task.x_0] if steps is None else steps
        if steps < 1:
            raise ConfigError(f"steps are at least 1, not {steps}.")
        rows, columns = (side // self.cell for side in condition.shape[:2])
        padded = pad_to_stride(condition, self.loaded.stride)
        given = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        size = (padded.shape[0] // self.cell, padded.shape[1] // self.cell)
        hints = edits.encode_hints(condition, cell=self.cell, scale=task.scale, size=size)
        noise = draw_noise(seed, (1, task.out_channels, *size))
        noise = damp_broad_noise(noise, variety=self.find_variety(variety))
        scale = self.find_guidance_scale(guidance_scale)
        cond, null_cond = engine.encode(given, hints, size)

        def predict(x_t: np.ndarray, t: float) -> np.ndarray:
            output = engine.predict(x_t, t, cond)
            if scale == 1:
                return output
            return guide(output, engine.predict(x_t, t, null_cond), scale)

        sampler = self._find_sampler(scheduler, seed=seed)
        for x_t in sampler(predict, noise, steps=steps, clip=task.clip):
            clipped = x_t[0].clip(-task.clip, task.clip).transpose(1, 2, 0)
            yield np.ascontiguousarray(clipped[:rows, :columns])

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
