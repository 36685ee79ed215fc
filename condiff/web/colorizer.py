"""Colours the page's photos: first a preview at screen size, the file on request.

Both use one sample, so the file matches the preview. Its bytes equal those that `condiff colorize`
writes for the same photo, seed and settings.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from condiff.color.edits import UNEDITED, ColorEdits, PreparedEdits
from condiff.color.references import Guide, Reference
from condiff.color.sample_selection import measure_deviation
from condiff.color.scans import Frame
from condiff.errors import ConfigError, ImageError, PagesError
from condiff.figures import color_spread
from condiff.files import short_digest
from condiff.inputs import Opened
from condiff.photos.formats import MAX_PIXELS
from condiff.photos.photo import Photo, flatten, to_8_bits, with_pixels
from condiff.photos.reading import read_image, read_photo
from condiff.photos.writing import check_photo, default_target, losses, write_photo
from condiff.pipelines.colorizing import (
    NOTED_AS,
    ColorizeSettings,
    build_settings,
    describe_grey,
    describe_match,
    describe_shortfall,
    list_remarks,
    note_making,
)
from condiff.pipelines.pipeline import Encoded, Pipeline
from condiff.resize import resize, shrink_long_side
from condiff.web.controls import read_edits
from condiff.web.sessions import Upload
from condiff.web.worker import Event

PREVIEW_SIDE = 1600  # longest side of previews in the browser
PREVIEW_QUALITY = 90
MAX_SAMPLES = 8
MAX_STROKES = 20_000_000  # pixels of their picture
KEPT_PHOTOS = 2  # in memory, at their full size
KEPT_BYTES = 400_000_000  # of their pixels; the current one may be larger
KEPT_SAMPLES = 64  # x_0, which are small

FIRST_PAGE = "it has several pages or frames, and this is page 1"

ShownKey = tuple[str, int | None, bool, bool]  # a photo in memory, as its edits show it
Prepare = Callable[[tuple[int, int]], PreparedEdits]  # edits for a condition of the size (h,w)


@dataclass(frozen=True)
class Order:
    """The page's order to colour a photo; strokes and mask are PNGs, or empty."""

    seed: int
    samples: int
    look: str | None
    sampling: Mapping[str, Any]
    edits: ColorEdits
    strokes: bytes = b""
    mask: bytes = b""
    # Settings of all samples except the first, such as a variety that makes them differ.
    others: Mapping[str, Any] = field(default_factory=dict)
    page: int | None = None

    @classmethod
    def read(
        cls,
        values: Mapping[str, Any],
        strokes: bytes = b"",
        mask: bytes = b"",
        *,
        references: Sequence[Reference] = (),
        palette: Reference | None = None,
    ) -> "Order":
        """The order in the page's JSON; ConfigError or ImageError if it is invalid."""
        seed, samples = values.get("seed"), values.get("samples", 1)
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise ConfigError(f"The seed must be an integer of at least 0, not {seed!r}.")
        if type(samples) is not int or not 1 <= samples <= MAX_SAMPLES:
            raise ConfigError(f"Alternatives are 1 to {MAX_SAMPLES}, not {samples!r}.")
        look, page = values.get("look"), values.get("page")
        fields = {name: values.get(name, {}) for name in ("edits", "sampling", "others")}
        wrong = [name for name, given in fields.items() if not isinstance(given, dict)]
        if wrong or not isinstance(look, str | None):
            raise ConfigError(f"{(*wrong, 'look')[0]} is not valid: reload the page.")
        pictures: dict[str, Any] = {"references": references, "palette": palette}
        if strokes:
            pictures["hints"] = read_image(strokes, max_pixels=MAX_STROKES)
        if mask:
            pictures["mask"] = read_image(mask, max_pixels=MAX_STROKES).convert("L")
        edits = read_edits(fields["edits"], **pictures)
        if page is not None and (type(page) is not int or page < 1):
            raise ConfigError(f"Pages are counted from 1, not {page!r}.")
        return cls(
            seed,
            samples,
            look,
            fields["sampling"],
            edits,
            strokes,
            mask,
            fields["others"],
            page,
        )

    @property
    def note(self) -> dict[str, str]:
        """The strokes' entry in the note of a result."""
        return {"strokes": short_digest(self.strokes)} if self.strokes else {}


@dataclass(frozen=True)
class Shown:
    """A photo in memory: at its own size and the preview's, and as model input."""

    photo: Photo
    opened: Opened
    small: np.ndarray  # (h,w,3) uint8

    @classmethod
    def open(cls, photo: Photo, pipeline: Pipeline, edits: ColorEdits) -> "Shown":
        """Open a photo with edits; the condition is computed once per size."""
        begun = edits.begin(photo)
        opened = pipeline.loaded.open(begun, as_is=edits.as_is)
        opened = replace(opened, to_condition=cache(opened.to_condition))
        return cls(photo, opened, shrink(begun.pixels))

    @property
    def before(self) -> np.ndarray:
        """The preview of the uncoloured photo: (h,w,3) uint8."""
        return self.lay_on("white", self.small)

    def lay_on(self, ground: str, pixels: np.ndarray) -> np.ndarray:
        """A picture (h,w,3) uint8 of the preview's size, flattened on the colour `ground`."""
        if self.photo.alpha is None:
            return pixels
        alpha = resize(to_8_bits(self.photo.alpha), *pixels.shape[:2])
        return flatten(Photo(pixels, alpha), ground).pixels

    @cached_property
    def preview(self) -> Opened:
        """The photo at the preview's size; its condition is that of the whole photo."""
        return replace(self.opened, picture=self.small, photo=self.small, frame=self._fit_frame())

    def _fit_frame(self) -> Frame | None:
        frame = self.opened.frame
        if frame is None:
            return None
        height, width = self.small.shape[:2]
        scale = height / frame.size[0]
        lines = {side: (offset * scale, slope) for side, (offset, slope) in frame.lines.items()}
        return Frame((height, width), lines)


@dataclass(frozen=True)
class Sample:
    """A sample of the model: x_0, and the data to decode it for a photo and edits."""

    x_0: Any
    bare: Encoded  # without a photo and conditions
    size: tuple[int, int]  # of the condition (h,w)
    guide: Guide | None  # chroma of references

    def beside(self, source: np.ndarray | None, edits: PreparedEdits) -> Encoded:
        """The encoding that decodes x_0 for a photo (H,W,3) with its edits."""
        return replace(self.bare, source=source, edits=replace(edits, guide=self.guide))


@dataclass(frozen=True)
class Result:
    """A sample with the settings of its finish; strokes and mask are stored as PNGs."""

    sample: Sample
    settings: ColorizeSettings  # without hints and mask
    seed: int
    note: Mapping[str, str] = field(default_factory=dict)
    page: int | None = None
    strokes: bytes = b""
    mask: bytes = b""

    @classmethod
    def of(
        cls, sample: Sample, settings: ColorizeSettings, seed: int, order: Order, page: int | None
    ) -> "Result":
        """Build the result of an order for one of its samples."""
        bare = replace(settings, edits=replace(settings.edits, hints=(), mask=None))
        return cls(sample, bare, seed, order.note, page, order.strokes, order.mask)

    def open_settings(self) -> ColorizeSettings:
        """The settings with strokes and mask."""
        pictures: dict[str, Any] = {}
        if self.strokes:
            pictures["hints"] = read_image(self.strokes)
        if self.mask:
            pictures["mask"] = read_image(self.mask).convert("L")
        return replace(self.settings, edits=replace(self.settings.edits, **pictures))


class Colorizer:
    """A colorizer's pipeline and its current photos; for one thread."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        name: str,
        device: str = "auto",
        engine: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ):
        self.pipeline, self.max_pixels = pipeline, max_pixels
        self._common = {
            "model": name, "device": device, "engine": engine, "max_pixels": max_pixels,
        }  # fmt: skip
        self._shown: OrderedDict[ShownKey, Shown] = OrderedDict()
        self._samples: OrderedDict[str, Sample] = OrderedDict()

    def open(self, upload: Upload) -> Iterator[Event]:
        """Read an uploaded photo, and make the preview of its original state.

        Yields one event with its size and remarks. Raises ImageError if it cannot be read.
        """
        shown = self._show(upload, ColorEdits())
        remarks = [FIRST_PAGE] if upload.page else []
        remarks += list_remarks(shown.photo, ColorEdits())
        yield self._publish_before(upload, shown) | {
            "remarks": [remark.replace("--invert", '"Negative"') for remark in remarks]
        }

    def open_reference(self, upload: Upload) -> Iterator[Event]:
        """Read a reference photo; ImageError if it has no colours."""
        upload.reference = Reference.open(read_upload(upload, self.max_pixels))
        path = upload.publish(upload.folder / "before.jpg")
        save_preview(shrink(upload.reference.pixels), path)
        height, width = upload.reference.pixels.shape[:2]
        yield {"before": path.name, "width": width, "height": height}

    def colorize(self, upload: Upload, order: Order) -> Iterator[Event]:
        """Yield the steps, a draft where strokes were added, and each result with its preview.

        Raises ConfigError or ImageError if settings and photo do not fit.
        """
        info = self.pipeline.loaded
        if order.page not in (None, upload.page):
            shown = self._show(replace(upload, page=order.page), order.edits)
            upload.page = order.page
            yield self._publish_before(upload, shown)
        settings, other = (
            build_settings(
                info, look=order.look, overrides=overrides, edits=order.edits, **self._common
            )
            for overrides in (order.sampling, {**order.sampling, **order.others})
        )
        shown = self._show(upload, settings.edits)
        suffix = default_target(Path(upload.name), "color").suffix
        check_photo(settings.edits.finish(shown.photo), suffix, upload.name)
        edits = settings.edits
        prepare = cache(lambda size: self._prepare(edits, shown.preview, size))
        yield from self._draft(upload, shown, order, settings, prepare)
        remark = describe_shortfall(Photo(shown.small), replace(edits, invert=False))
        encoded, previews = None, []
        for number in range(order.samples):
            seed = order.seed + number
            if number == 1 and other != settings:
                settings, encoded = other, None
            key = _key(upload, order, settings, seed)
            sample = self._samples.get(key)
            if sample is None:
                if encoded is None:
                    encoded = self._encode(shown, settings)
                config = settings.sampling
                path = self.pipeline.sample(encoded[0], config=config, seed=seed)
                for step, x_t in enumerate(path):
                    sample = encoded[1](x_t)
                    yield {
                        "step": number * config.steps + step,
                        "steps": order.samples * config.steps,
                    }
                assert sample is not None
                self._samples[key] = sample
            self._samples.move_to_end(key)
            result = Result.of(sample, settings, seed, order, upload.page)
            pixels = self._preview(sample, shown, edits, prepare)
            previews.append(pixels)
            yield self._publish(upload, shown, result, edits, pixels, remark)
        while len(self._samples) > KEPT_SAMPLES:
            self._samples.popitem(last=False)
        if len(previews) > 1:
            yield _save_map(upload, previews)

    def write(self, upload: Upload, name: str) -> Iterator[Event]:
        """Write the file of a result, if not done before: the same bytes as the command line.

        Yields one event with the file's name on the server and its name for the user.
        """
        result: Result = upload.find(name)
        wanted = default_target(Path(upload.name), "color").name
        path = upload.folder / f"{name}.file{Path(wanted).suffix}"
        if path.name not in upload.files:
            settings = result.open_settings()
            shown = self._show(replace(upload, page=result.page), settings.edits)
            prepared = self._prepare(settings.edits, shown.opened, result.sample.size)
            encoded = result.sample.beside(shown.opened.source, prepared)
            pixels = self.pipeline.decode(result.sample.x_0, encoded)
            made = with_pixels(shown.photo, pixels, seed=result.seed)
            del shown, encoded, pixels
            made = note_making(
                settings.edits.finish(made), self.pipeline, settings, hints=result.note
            )
            write_photo(made, path)
            upload.publish(path)
        yield {"file": path.name, "name": wanted, "bytes": path.stat().st_size}

    def forget(self, upload: Upload) -> None:
        """Free the memory of a photo and its samples."""
        for key in [key for key in self._shown if key[0] == upload.id]:
            del self._shown[key]
        for name in [name for name in self._samples if name.startswith(f'["{upload.id}"')]:
            del self._samples[name]

    def release(self) -> None:
        """Free the memory of all photos; they are read again when needed."""
        self._shown.clear()

    def _publish_before(self, upload: Upload, shown: Shown) -> Event:
        """The event of a photo's size and its original preview."""
        upload.size = width, height = shown.photo.size
        path = upload.publish(upload.folder / f"before{upload.page or ''}.jpg")
        save_preview(shown.before, path)
        return {"before": path.name, "width": width, "height": height}

    def _show(self, upload: Upload, edits: ColorEdits) -> Shown:
        key = _shown_key(upload, edits)
        if key not in self._shown:
            self._make_room(0)
            photo = read_upload(upload, self.max_pixels)
            self._make_room(photo.pixels.nbytes)
            key = _shown_key(upload, edits)  # of several pages, one is chosen now
            self._shown[key] = Shown.open(photo, self.pipeline, edits)
        self._shown.move_to_end(key)
        return self._shown[key]

    def _make_room(self, size: int) -> None:
        """Forget the least recently shown photos, to make room for `size` bytes."""
        while self._shown:
            held = sum(shown.photo.pixels.nbytes for shown in self._shown.values())
            if len(self._shown) < KEPT_PHOTOS and held + size <= KEPT_BYTES:
                return
            self._shown.popitem(last=False)

    def _encode(
        self, shown: Shown, settings: ColorizeSettings
    ) -> tuple[Encoded, Callable[[Any], Sample]]:
        """The encoding for sampling, and a function that makes a Sample of an x_t."""
        config = settings.sampling
        encoded = self.pipeline.encode(shown.opened, config=config, edits=settings.edits)
        _, condition = self.pipeline.prepare(shown.opened, size=config.size)
        size = (condition.shape[0], condition.shape[1])
        bare = replace(encoded, source=None, edits=UNEDITED, conds=[], alike=None)
        guide = encoded.edits.guide
        return encoded, lambda x_t: Sample(x_t, bare, size, guide)

    def _draft(
        self,
        upload: Upload,
        shown: Shown,
        order: Order,
        settings: ColorizeSettings,
        prepare: Prepare,
    ) -> Iterator[Event]:
        """The last sample with the new strokes, shown until the model has sampled with them."""
        if not order.strokes or _key(upload, order, settings, order.seed) in self._samples:
            return
        others = [
            key for key in self._samples
            if key.startswith(_key(upload, order, settings, order.seed, strokes=False))
        ]  # fmt: skip
        if others:
            pixels = self._preview(self._samples[others[-1]], shown, settings.edits, prepare)
            path = upload.publish(upload.folder / "draft.jpg")
            save_preview(pixels, path)
            yield {"draft": path.name}

    def _preview(
        self, sample: Sample, shown: Shown, edits: ColorEdits, prepare: Prepare
    ) -> np.ndarray:
        """A result at the preview's size: (h,w,3) uint8."""
        encoded = sample.beside(shown.small, prepare(sample.size))
        pixels = self.pipeline.decode(sample.x_0, encoded)
        return shown.lay_on(edits.background or "white", pixels)

    def _prepare(self, edits: ColorEdits, opened: Opened, size: tuple[int, int]) -> PreparedEdits:
        space = self.pipeline.loaded.task.space
        return edits.prepare(
            photo=opened.size, size=size, frame=opened.frame, values_of=space.hint_values
        )

    def _publish(
        self,
        upload: Upload,
        shown: Shown,
        result: Result,
        edits: ColorEdits,
        pixels: np.ndarray,
        remark: str,
    ) -> Event:
        """The event of a result; writes its preview under its own name."""
        name = _name(result)
        path = upload.folder / f"{name}.jpg"
        if path.name not in upload.files:
            save_preview(pixels, path)
            upload.publish(path)
        upload.keep(name, result)
        suffix = default_target(Path(upload.name), "color").suffix
        lost = losses(shown.photo, suffix)
        remarks = [
            remark,
            describe_match(result.sample.guide.share if result.sample.guide else None),
            describe_grey(shown.photo, Photo(pixels), edits),
            f"the file's format has no place for {lost}" if lost else "",
        ]
        return {
            "result": name,
            "seed": result.seed,
            "preview": path.name,
            "remarks": [text for text in remarks if text],
        }


def _shown_key(upload: Upload, edits: ColorEdits) -> ShownKey:
    return upload.id, upload.page, edits.invert, edits.as_is


def shrink(pixels: np.ndarray) -> np.ndarray:
    """RGB (H,W,3) of 8 or 16 bits -> (h,w,3) uint8 of at most PREVIEW_SIDE."""
    return to_8_bits(shrink_long_side(pixels, PREVIEW_SIDE))


def save_preview(pixels: np.ndarray, path: Path) -> None:
    """Write a small JPEG for the page."""
    Image.fromarray(pixels).save(path, quality=PREVIEW_QUALITY)


def read_upload(upload: Upload, max_pixels: int) -> Photo:
    """The photo in an upload; its errors contain the user's name of the file.

    Of several pages the first is read, if none was chosen; `upload.page` is then 1.
    """
    try:
        return read_photo(upload.path, max_pixels=max_pixels, page=upload.page)
    except PagesError:
        upload.page = 1
        return read_upload(upload, max_pixels)
    except ImageError as error:
        raise ImageError(str(error).replace(str(upload.path), upload.name)) from None


def _save_map(upload: Upload, previews: list[np.ndarray]) -> Event:
    """The event of a map of the previews' differences, and the value of its brightest colour."""
    path = upload.folder / "uncertainty.png"
    picture, most = color_spread(measure_deviation(previews))
    picture.save(path)
    return {"uncertainty": upload.publish(path).name, "most": most}


def _key(
    upload: Upload, order: Order, settings: ColorizeSettings, seed: int, *, strokes: bool = True
) -> str:
    """The key of all that x_0 depends on; without `strokes`, the prefix that all strokes share."""
    edits, sampling = settings.edits, settings.sampling.model_dump()
    shared: list[Any] = [upload.id, upload.page, seed, edits.invert, edits.as_is, sampling]
    shared += [edits.reference_digests, edits.strict_reference]
    return json.dumps(shared) + (order.note.get("strokes", "") if strokes else "")


def _name(result: Result) -> str:
    """16 hex digits, a digest of all that a result depends on."""
    edits, sampling = result.settings.edits, result.settings.sampling.model_dump()
    names = [name for name in edits.changed() if name != "hints"]
    changed = {name: str(getattr(edits, NOTED_AS.get(name, name))) for name in names}
    mask = hashlib.sha256(result.mask).hexdigest() if result.mask else ""
    parts = [result.seed, result.page, sampling, dict(result.note), changed, mask]
    return short_digest(json.dumps(parts).encode())
