"""Contact sheets, plots, animations, and figures of the diffusion process.

torch and matplotlib are imported only by the functions that need them.
"""

import io
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from condiff.config import DiffusionConfig
from condiff.errors import ConfigError, DependencyError, UnknownFormatError
from condiff.files import publish, unwritten, write_buffer
from condiff.photos.writing import check_target

GAP = 2
CAPTION = 18
NARROWEST = 84  # least width of a cell with a caption
MARGIN = 8
PLOT_LEFT, PLOT_RIGHT = 94, 18  # pixels beside the axes of a plot's panel
LEGEND_COLUMNS = 4

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")

SPREADS = (5, 10, 20, 30, 50, 80)  # choices for the upper end of an uncertainty map's scale

ANIMATIONS = {".gif": "GIF", ".webp": "WEBP", ".mp4": "MP4"}


def make_contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    side: int,
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Rows of images on white, each scaled to fit `side` pixels square; captions below.

    The cells are as wide and as high as the largest scaled image.
    """
    fitted = [[_fit(image.size, side) for image in row] for row in rows]
    wide, high = (max(size[n] for row in fitted for size in row) for n in (0, 1))
    wide = max(wide, NARROWEST) if captions else wide
    columns = max(len(row) for row in rows)
    across, down = wide + GAP, high + GAP + (CAPTION if captions else 0)
    sheet = Image.new("RGB", (columns * across + GAP, len(rows) * down + GAP), "white")
    for y, row in enumerate(rows):
        for x, (image, size) in enumerate(zip(row, fitted[y], strict=True)):
            cell = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            corner = (wide - size[0]) // 2, (high - size[1]) // 2
            sheet.paste(cell, (GAP + x * across + corner[0], GAP + y * down + corner[1]))
    for y, names in enumerate(captions or ()):
        for x, name in enumerate(names):
            below = GAP + x * across + wide // 2, GAP + y * down + high + CAPTION // 2
            font = ImageFont.load_default(CAPTION - 5)
            ImageDraw.Draw(sheet).text(below, name, "black", font, anchor="mm")
    return sheet


def make_uncertainty_map(spread: NDArray[np.float32]) -> Image.Image:
    """A picture of the spread (h,w) of chroma, from dark (0) to bright, with its scale below."""
    picture, most = color_spread(spread)
    width = max(picture.width, 240)
    result = Image.new("RGB", (width, picture.height + 2 * CAPTION + MARGIN), "white")
    result.paste(picture, ((width - picture.width) // 2, 0))
    bar = np.linspace(0, 255, width - 2 * MARGIN).astype(np.uint8)
    top = picture.height + MARGIN
    result.paste(_to_viridis(np.tile(bar, (CAPTION // 2, 1))), (MARGIN, top))
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(CAPTION - 5)
    below = top + CAPTION
    draw.text((MARGIN, below), "0", "black", font, anchor="lm")
    draw.text((width // 2, below), "spread of a and b", "black", font, anchor="mm")
    ending = f"{most}" if spread.max() <= most else f"{most} or more"
    draw.text((width - MARGIN, below), ending, "black", font, anchor="rm")
    return result


def color_spread(spread: NDArray[np.float32]) -> tuple[Image.Image, int]:
    """The spread (h,w) of chroma in colours, from dark (0) to bright, and the value of bright."""
    most = next((n for n in SPREADS if n >= np.percentile(spread, 99)), SPREADS[-1])
    levels = np.clip(spread * (255 / most) + 0.5, 0, 255).astype(np.uint8)
    return _to_viridis(levels), most


def _to_viridis(levels: NDArray[np.uint8]) -> Image.Image:
    """Levels (h,w) in the colours of viridis, where equal steps look equal."""
    return Image.fromarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1])


@dataclass(frozen=True)
class Panel:
    """One pair of axes: named curves over x, or over 0, 1, 2, … where x is None.

    Curves named in `faint` are thin and pale: the raw values behind a smoothed curve.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, Sequence[float]]
    x: Sequence[float] | None = None
    log_y: bool = False
    faint: Sequence[str] = ()


def make_plot(panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side, 640x480 each; one legend below names the curves, by colour."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise DependencyError.of(f"A plot needs {error.name}", extra="figures") from error
    figure = Figure(figsize=(6.4 * len(panels), 4.8), dpi=100)
    canvas = FigureCanvasAgg(figure)  # no pyplot: it would keep state, and look for a display
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    lines = {}
    # Fixed margins: measuring all labels first, as matplotlib's layouts do, takes most of the time.
    in_legend = -(-len(names) // LEGEND_COLUMNS) if len(names) > 1 else 0  # rows
    wide, bottom = 640 * len(panels), 52 + 24 * in_legend
    sides = {"left": PLOT_LEFT / wide, "right": 1 - PLOT_RIGHT / wide}
    between = PLOT_LEFT + PLOT_RIGHT
    inner = {"wspace": between / (640 - between), "top": 1 - 34 / 480, "bottom": bottom / 480}
    rows = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=sides | inner)
    for axes, panel in zip(rows[0], panels, strict=True):
        for name, curve in panel.curves.items():
            x = range(len(curve)) if panel.x is None else panel.x
            width, alpha = (1, 0.4) if name in panel.faint else (2, 1)
            (lines[name],) = axes.plot(x, curve, color=color[name], linewidth=width, alpha=alpha)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel(panel.ylabel)
        axes.set_yscale("log" if panel.log_y else "linear")
        low, high = axes.get_ylim()
        if panel.log_y and high < 10 * low:  # 0.8 and 0.9, not 8×10⁻¹ and 9×10⁻¹
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        handles = [lines[name] for name in names]
        figure.legend(handles, names, loc="lower center", ncols=LEGEND_COLUMNS, frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def make_schedule_plot(processes: Mapping[str, DiffusionConfig]) -> Image.Image:
    """beta_t and alpha_bar_t of named noise processes over the timesteps."""
    from condiff.diffusion.diffusers_schedulers import build_scheduler

    schedulers = {name: build_scheduler("ddpm", config) for name, config in processes.items()}
    betas = {name: scheduler.betas.tolist() for name, scheduler in schedulers.items()}
    alphas_bar = {name: s.alphas_cumprod.tolist() for name, s in schedulers.items()}
    return make_plot(
        [
            Panel(
                r"Noise added in a step, $\beta_t$", "timestep $t$", r"$\beta_t$", betas, None, True
            ),
            Panel(
                r"Image left after $t$ steps, $\bar\alpha_t$",
                "timestep $t$",
                r"$\bar\alpha_t$",
                alphas_bar,
            ),
        ]
    )


def make_forward_strip(
    photo: Image.Image,
    processes: Mapping[str, DiffusionConfig],
    *,
    side: int = 224,
    columns: int = 5,
    seed: int = 0,
) -> Image.Image:
    """x_t of a photo, one row per noise process, with t from 0 to T-1.

    The photo's longer side becomes `side`. Every cell has the same noise; values beyond black and
    white are clipped.
    """
    import torch

    from condiff.diffusion.diffusers_schedulers import build_scheduler
    from condiff.diffusion.parameterization import add_noise
    from condiff.diffusion.sampler import sample_initial_noise

    small = photo.convert("RGB")
    small = small.resize(_fit(small.size, side), Image.Resampling.LANCZOS)
    x_0 = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
    eps = torch.from_numpy(sample_initial_noise(seed, tuple(x_0.shape)))
    font = ImageFont.load_default(CAPTION - 4)
    gutter = round(max(font.getlength(name) for name in processes)) + 2 * MARGIN
    across, down = small.width + MARGIN, small.height + CAPTION + 2 * MARGIN
    size = (gutter + columns * across, len(processes) * down)
    strip = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(strip)
    for row, (name, config) in enumerate(processes.items()):
        alphas_bar = build_scheduler("ddpm", config).alphas_cumprod
        top = row * down + CAPTION + MARGIN
        draw.text((MARGIN, top + small.height // 2), name, "black", font, anchor="lm")
        for column in range(columns):
            t = min(column * len(alphas_bar) // (columns - 1), len(alphas_bar) - 1)
            x_t = add_noise(x_0, eps, alphas_bar[t])[0].permute(1, 2, 0)
            cell = Image.fromarray(((x_t + 1) * 127.5).round().clamp(0, 255).byte().numpy())
            left = gutter + column * across
            strip.paste(cell, (left, top))
            draw.text((left + small.width // 2, top - 4), f"t = {t}", "black", font, anchor="ms")
    return strip


def write_animation(
    frames: Iterable[Image.Image],
    target: str | os.PathLike[str] | BinaryIO,
    *,
    fps: float = 12.0,
    hold: float = 1.5,
    force: bool = False,
) -> None:
    """Write frames of one size as GIF, WebP or MP4, by the suffix, or as GIF to a stream.

    The last frame stays for `hold` seconds; GIF and WebP then start again. Raises ConfigError if
    there is no frame, ImageError if the file cannot be written, or exists and not `force`.
    """
    frames = list(frames)
    if not frames:
        raise ConfigError("An animation needs a frame: give at least one.")
    if not isinstance(target, (str, os.PathLike)):
        encoded = io.BytesIO()
        _save_frames(frames, encoded, format="GIF", fps=fps, hold=hold)
        write_buffer(encoded, target)
        return
    target = Path(target)
    check_animation(target, force)
    format = ANIMATIONS[target.suffix.lower()]
    save = _save_mp4 if format == "MP4" else partial(_save_frames, format=format)
    try:
        with publish(target, force) as file:
            save(frames, file, fps=fps, hold=hold)
    except OSError as error:
        raise unwritten(str(target), error) from error


def check_animation(target: Path, force: bool = False, *, new_folder: bool = False) -> None:
    """Raise ImageError or ConfigError if an animation cannot be written there, before the work.

    With `new_folder` the target's folder need not exist, because it will be made.
    """
    if target.suffix.lower() not in ANIMATIONS:
        raise UnknownFormatError(
            f"cannot write {target}: an animation is a {', '.join(ANIMATIONS)}; choose one of them"
        )
    check_target(target, force, format=ANIMATIONS[target.suffix.lower()], new_folder=new_folder)
    if target.suffix.lower() == ".mp4":
        _import_ffmpeg()


def pick_frames(frames: Sequence[Image.Image], count: int) -> list[Image.Image]:
    """At most `count` of the frames, evenly spaced, the first and the last among them."""
    if count >= len(frames):
        return list(frames)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return [frames[i] for i in chosen]


def _save_frames(
    frames: Sequence[Image.Image], file: BinaryIO, *, format: str, fps: float, hold: float
) -> None:
    durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * hold)]
    if format == "GIF":
        frames = [_to_palette(frame) for frame in frames]
    first, *others = frames
    first.save(
        file, format, save_all=True, append_images=others, duration=durations, loop=0, quality=85
    )


def _to_palette(frame: Image.Image) -> Image.Image:
    """The frame in 256 colours of its own, dithered, so that skies show no bands."""
    frame = frame.convert("RGB")
    return frame.quantize(palette=frame.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)


def _save_mp4(frames: Sequence[Image.Image], file: BinaryIO, *, fps: float, hold: float) -> None:
    """Encode frames as H.264 into a file that has a name; OSError with ffmpeg's reason."""
    width, height = (max(2, side // 2 * 2) for side in frames[0].size)  # H.264 halves its chroma
    given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -"
    made = "-c:v libx264 -pix_fmt yuv420p -crf 10 -f mp4"
    command = [_import_ffmpeg().get_ffmpeg_exe(), *f"-y -v error {given} {made}".split(), file.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin is not None
        with suppress(OSError):  # it has ended, and its status says why
            for frame in [*frames, *[frames[-1]] * round(fps * hold)]:
                ffmpeg.stdin.write(frame.convert("RGB").crop((0, 0, width, height)).tobytes())
        said = ffmpeg.communicate()[1].decode(errors="replace").splitlines()
    if ffmpeg.returncode:
        reason = said[-1].rpartition("] ")[2] if said else f"status {ffmpeg.returncode}"
        raise OSError(f"ffmpeg failed ({reason})")


def _import_ffmpeg() -> ModuleType:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()  # RuntimeError: installed without the ffmpeg program
    except (ModuleNotFoundError, RuntimeError) as error:
        raise ConfigError(
            "An MP4 needs imageio-ffmpeg, which is not installed: pip install imageio-ffmpeg, "
            "or choose .gif or .webp."
        ) from error
    return imageio_ffmpeg


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A size of the same aspect whose longer side is `side`."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
