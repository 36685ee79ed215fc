"""Colours a folder: the options of a batch, and the work on each of its photos."""

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from condiff.backends.table import ENGINES, choose_engine, find_device
from condiff.batch.album import read_style, settle_style
from condiff.batch.journal import Journal, compare_settings, open_journal
from condiff.batch.plan import Choice, Plan, plan
from condiff.batch.status import Result, list_states
from condiff.batch.storage import open_storage
from condiff.batch.worker import Transform, build_transform
from condiff.checks import as_int_within, as_path, check_kind
from condiff.color.album import AlbumStyle, ChromaMeans
from condiff.color.edits import OF_DRAWINGS
from condiff.config import SamplingConfig
from condiff.errors import ConfigError, UsageError
from condiff.files import digest_files
from condiff.models.info import ModelInfo, read_model_info
from condiff.photos.formats import FORMATS, MAX_PIXELS
from condiff.photos.photo import Photo
from condiff.pipelines.colorizing import ColorizeSettings
from condiff.pipelines.options import ColorOptions
from condiff.pipelines.pipeline import Pipeline

RAY = "ray"  # the one --engine that is not an engine of the network
ENGINE_NAMES = ("auto", *ENGINES, RAY)


@dataclass(frozen=True, kw_only=True)
class BatchOptions(ColorOptions):
    """The options of a batch. None means the model's, the photo's or the resumed batch's value.

    `seed` is the batch's; each photo's seed is computed from it and the photo's path. `edits` have
    no hints and no album: the fields of these names are for them. `engine` runs the network, or is
    ray. Raises ConfigError for a value of another type, or out of range.
    """

    album: bool = False  # one style for all photos
    choice: Choice = field(default_factory=Choice)  # which photos
    suffix: str | None = None  # such as .png: the format of all results
    hints: str | Path | None = None  # a folder of pictures of strokes
    masks: str | Path | None = None  # a folder of masks, which replace that of `edits`
    quality: int | None = None
    touch: bool = False  # results get the present date instead of their photos'
    page: int | None = None
    max_pixels: int = MAX_PIXELS
    strict: bool = False  # photos whose file is damaged fail
    address: str | None = None  # of a Ray cluster
    workers: int | None = None  # None: one a core
    retry_failed: bool = False
    no_edits = ("hints", "album", *OF_DRAWINGS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("choice", self.choice, Choice)
        for name, most in (
            ("quality", 100),
            ("page", None),
            ("max_pixels", None),
            ("workers", 1024),
        ):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_int_within(name, value, 1, most))
        for name in ("hints", "masks"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_path(name, getattr(self, name)))
        if self.suffix is not None and self.suffix not in FORMATS:
            raise ConfigError(f"suffix is one of {', '.join(FORMATS)}, not {self.suffix!r}.")

    def asked(self) -> dict[str, Any]:
        """The settings that must equal those of a resumed batch; None: any."""
        return {
            "task": "colorize",
            **dict.fromkeys(SamplingConfig.model_fields),
            **self.overrides,
            "saturation": self.edits.saturation,
            "temperature": self.edits.temperature,
            "mask": self.edits.mask_digest,
            "invert": self.edits.invert,
            "background": self.edits.background or "",
            "as_is": self.edits.as_is,
            "references": self.edits.reference_digests,
            "strict_reference": self.edits.strict_reference,
            "palette": self.edits.palette_note,
            "album": self.album,
            "seed": self.seed,
            "format": self.suffix or "as the photo",
            "quality": self.quality,
            "provenance": self.provenance,
        }


def colorize_folder(
    source: str | Path, out: str | Path, options: BatchOptions | None = None
) -> Iterator[Result]:
    """Colour every photo below a folder, as `condiff batch` does; yields a result for each photo.

    The work is done while the results are taken. A loop that ends early, or `close()`, stops it;
    photos in progress are finished first. Photos that were done before are skipped, so that the
    same call resumes a batch. Folders may be URLs of fsspec. Raises ConfigError at once for folders
    or settings that do not go together, or are not those of the resumed batch.
    """
    options = BatchOptions() if options is None else options
    check_kind("options", options, BatchOptions)
    for name, folder in (("source", source), ("out", out)):
        as_path(name, folder)
    found, options = plan_batch(str(source), str(out), options)
    return run_batch(found, options)


def plan_batch(source: str, out: str, options: BatchOptions) -> tuple[Plan, BatchOptions]:
    """The jobs of a batch, and the options with its seed; nothing is written, no model loaded.

    Raises ConfigError for folders or settings that do not go together.
    """
    info = read_model_info(options.model)
    info.check_colorizes()
    if options.look is not None:
        look = info.find_look(options.look)
        options = replace(
            options,
            overrides={**look.sampling(), **options.overrides},
            edits=options.edits.with_saturation(look.saturation),
        )
    if options.engine not in ENGINE_NAMES:
        names = ", ".join(ENGINE_NAMES)
        raise UsageError(f"There is no engine {options.engine!r}: choose from {names}.")
    if options.address and options.engine != RAY:
        raise UsageError("An address is for a Ray cluster: set the engine to ray, too.")
    if options.album and options.engine == RAY:
        raise UsageError(
            "The style of an album is measured on one machine: leave out the engine ray."
        )
    if options.album and options.choice.shard != (1, 1):
        raise UsageError("The style of an album is measured on all photos: leave out the shard.")
    hints, masks = (None if f is None else Path(f) for f in (options.hints, options.masks))
    for folder, what in ((hints, "hints"), (masks, "masks")):
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"There is no folder {folder} of {what}: check its name.")
    found = plan(
        open_storage(source),
        open_storage(out),
        choice=options.choice,
        suffix=options.suffix,
        hints=hints,
        masks=masks,
    )
    begun = {} if options.force else compare_settings(found.out, options.asked())
    seed = begun.get("seed") if options.seed is None else options.seed
    return found, replace(options, seed=secrets.randbits(31) if seed is None else seed)


def run_batch(found: Plan, options: BatchOptions) -> Generator[Result, None, None]:
    """Carry out a plan; yields results as they come, first those that need no work."""
    info = read_model_info(options.model)
    engine, device = choose_network(info, options.engine, options.device)
    info.check_sampling(info.sampling.override(options.overrides))
    if not found.jobs:
        return  # begin no batch in OUT: later ones would have to take its settings and seed
    default = info.sampling
    if default.size is None:
        default = default.override({"size": info.condition_size})
    asked = options.asked() | {
        "model": fingerprint(info.path),
        "device": device.split(":")[0],
        "engine": engine,
    }
    defaults = default.model_dump() | {"saturation": 1.0}
    opened = open_journal(found.out, asked, defaults=defaults, force=options.force)
    with opened as journal:
        settled = journal.settings  # settings that were not given are the first run's
        sampling = {name: settled.get(name) for name in SamplingConfig.model_fields}
        settings = ColorizeSettings(
            model=info.name,
            device=device,
            engine=engine,
            sampling=default.override(sampling),
            edits=replace(options.edits, saturation=settled["saturation"]),
            provenance=options.provenance,
            touch=options.touch,
            quality=settled["quality"],
            page=options.page,
            max_pixels=options.max_pixels,
            strict=options.strict,
        )
        load = cache(partial(Pipeline.from_pretrained, info.path, device=device, engine=engine))
        workers = choose_workers(options.workers, device)
        assert options.seed is not None  # `plan_batch` has drawn one
        if options.album:
            style = settle_album(found, journal, settings, load, seed=options.seed, workers=workers)
            settings = replace(settings, edits=replace(settings.edits, album=style))
        run: Callable[..., Generator[Result, None, None]] = partial(
            run_here, load_pipeline=load, workers=workers
        )
        if options.engine == RAY:
            from condiff.batch.ray import run_on_ray

            # A cluster counts its own cores.
            count = options.workers if options.address else workers
            run = partial(run_on_ray, model=info.path, address=options.address, workers=count)
        yield from run(
            found,
            journal,
            settings,
            seed=options.seed,
            retry_failed=options.retry_failed,
        )


def run_here(
    found: Plan,
    journal: Journal,
    settings: ColorizeSettings,
    *,
    seed: int,
    workers: int,
    retry_failed: bool,
    load_pipeline: Callable[[], Pipeline],
) -> Generator[Result, None, None]:
    """Carry the plan out in threads of this process; load the model only if there is work."""
    from condiff.batch.local import run

    @cache
    def load() -> Transform:
        return build_transform(load_pipeline(), settings)

    entries = {} if retry_failed else journal.entries
    if any(state == "to do" for state, _ in list_states(found, entries, replace=journal.replace)):
        load()  # now, so that a broken model is not reported as the failure of a photo
    return run(
        found,
        journal,
        lambda photo, seed, hints: load()(photo, seed, hints),
        seed=seed,
        workers=workers,
        retry_failed=retry_failed,
        read=settings.read,
        quality=settings.quality,
        touch=settings.touch,
    )


def settle_album(
    found: Plan,
    journal: Journal,
    settings: ColorizeSettings,
    load_pipeline: Callable[[], Pipeline],
    *,
    seed: int,
    workers: int,
) -> AlbumStyle:
    """The style of the batch's photos; the model is loaded only if it is not measured yet."""
    edits = replace(settings.edits, references=(), strict_reference=False, album=AlbumStyle(seed))

    def measure(photo: Photo, seed: int) -> ChromaMeans:
        return load_pipeline().measure(photo, config=settings.sampling, seed=seed, edits=edits)

    if read_style(found, seed) is None:
        load_pipeline()  # now, so that a broken model is not taken for a photo that fails
    return settle_style(found, journal, measure, seed=seed, read=settings.read, workers=workers)


def choose_network(info: ModelInfo, engine: str, device: str) -> tuple[str, str]:
    """The engine that runs the network, and the device: on a Ray cluster only its kind."""
    if engine != RAY:
        found = find_device(device, engine=engine)
        return choose_engine(info, engine, found.split(":")[0]), found
    # A named device is the workers': this machine need not have it.
    found = find_device(device) if device == "auto" else device
    kind = found.split(":")[0]
    return choose_engine(info, "auto", kind), kind


def choose_workers(asked: int | None, device: str) -> int:
    """How many threads colour photos: as many as asked for, or one a core.

    One on Apple's GPU, as two threads that use it at once end the process:
    https://github.com/pytorch/pytorch/issues/197805.
    """
    return 1 if device.startswith("mps") else asked or count_cores()


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fingerprint(folder: Path) -> str:
    """16 hex digits that depend on a model folder's content alone."""
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".safetensors"))
    return digest_files(folder, paths)[:16]
