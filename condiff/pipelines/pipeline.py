"""The pipeline: a photo or a drawing in, finished pictures out."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from PIL import Image

from condiff.backends.table import Backend, build_engine, choose_engine, find_device
from condiff.checks import as_count, as_seed, check_kind
from condiff.color.album import ChromaMeans
from condiff.color.edits import NO_EDITS, OF_DRAWINGS, UNEDITED, ColorEdits, PreparedEdits
from condiff.color.lab import rgb_to_lab
from condiff.color.references import MIN_SHARE, FeatureMap, Guide, Reference, match_references
from condiff.conditions.drawing_cleanup import Drawing
from condiff.config import NATURAL, SamplingConfig
from condiff.diffusion.parameterization import (
    guidance_branches,
    guide_along,
    project_guidance,
    to_x_0,
)
from condiff.diffusion.sampler import (
    SAMPLERS,
    NoiseSource,
    damp_broad_noise,
    sample,
    sample_initial_noise,
    spread_over_patches,
)
from condiff.diffusion.schedule import compute_alphas_bar
from condiff.diffusion.tiles import Tiles, plan_tiles, predict_in_tiles
from condiff.errors import ConfigError, DependencyError, ImageError
from condiff.inputs import Opened, UserPicture
from condiff.models.info import ModelInfo, read_model_info
from condiff.photos.photo import Photo, as_memory_error, to_8_bits, with_pixels
from condiff.photos.reading import as_photo
from condiff.pipelines.flat_colors import FlatColors
from condiff.pipelines.similar_colors import SimilarColors
from condiff.resize import MAX_ASPECT, pad_to_stride
from condiff.tasks import BACKBONE_STRIDE
from condiff.words import NO_WORDS, Words

KEPT_VIEWS = 32  # of references, the most recently used


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture encoded for sampling; arrays are the backend's."""

    source: np.ndarray | None  # the photo's RGB (H,W,3), a drawing's ink (H,W), or None
    edits: PreparedEdits
    windows: Tiles  # in cells of x_t: one, or several that overlap along a strip
    # Per window: cond (1,K,h,w), and the null condition of guidance, None without guidance. A model
    # that takes words has two of the latter: see `Backend.encode`.
    conds: list[tuple[Any | None, ...]]
    size: tuple[int, int]  # of x_t, padded to the U-Net's stride
    inside: tuple[int, int]  # rows and columns of x_t that the picture covers
    flat: FlatColors | None = None  # of a drawing, for flat colours in its regions
    alike: list[SimilarColors] | None = None  # of a photo, per window, for coherence


class Pipeline:
    """A loaded model: `Pipeline.from_pretrained("colorize")(image)` runs it.

    Several threads may use one, except on Apple's GPU. It cannot be pickled: other processes load
    their own.
    """

    def __init__(self, loaded: ModelInfo, backend: Backend):
        self.loaded, self.backend = loaded, backend
        self._views: OrderedDict[tuple[str, int, bool], FeatureMap] = OrderedDict()
        self._mutex = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Pipeline cannot be pickled: load one in each process.")

    @property
    def sampling(self) -> SamplingConfig:
        """The model's default sampling settings."""
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

        `engine` is torch, onnx or openvino; auto is onnx on a CPU if the folder has graphs, else
        torch. Results differ slightly with the number of CPU threads, as rounding differs.
        """
        return cls(*open_model(name, device=device, engine=engine, threads=threads))

    @property
    def device(self) -> str:
        """Where the network runs: cpu, cuda, cuda:1 or mps."""
        return self.backend.device

    @property
    def cell(self) -> int:
        """Width of one pixel of x_t (a cell) in pixels of the condition."""
        return self.loaded.cell

    @as_memory_error()
    def __call__(
        self,
        image: UserPicture | Opened | None = None,
        *,
        seed: int | None = None,
        samples: int = 1,
        edits: ColorEdits = NO_EDITS,
        look: str = NATURAL,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        scheduler: str | None = None,
        guidance_scale: float | None = None,
        guidance_eta: float | None = None,
        image_guidance_scale: float | None = None,
        variety: float | None = None,
        vividness: float | None = None,
        coherence: float | None = None,
        size: int | None = None,
    ) -> list[Any]:
        """Make one result for each of the seeds seed, seed + 1, …, `samples` in all.

        A picture is anything that `as_photo` accepts: a path, bytes, a Pillow image, an array or a
        Photo. A colorizer's result has the photo's size, L* and alpha channel; `edits` change its
        colours. It is an 8-bit image if an image was given, else a Photo at its own depth. A model
        of drawings takes a line drawing, which is cleaned, or a Drawing; an unconditional model
        takes nothing. Both return a Pillow image, of the drawing's size or of the model's.

        `look` is a colorizer's quiet, natural or vivid: guidance_scale, guidance_eta, variety, and
        the saturation if the edits have none. The other arguments are fields of `SamplingConfig`;
        None means the value of the look or the model folder. A result depends only on the model and
        these arguments. Without a seed a new one is drawn; `info["seed"]` of each result contains
        its seed. Raises ConfigError for arguments that the model does not support, UsageError for
        words if it takes none, ImageError for a photo where a drawing is expected.
        """
        config, edits = self.loaded.configure(
            edits,
            look=look,
            overrides={
                "prompt": prompt,
                "negative_prompt": negative_prompt,
                "steps": steps,
                "scheduler": scheduler,
                "guidance_scale": guidance_scale,
                "guidance_eta": guidance_eta,
                "image_guidance_scale": image_guidance_scale,
                "variety": variety,
                "vividness": vividness,
                "coherence": coherence,
                "size": size,
            },
        )
        return list(self.run(image, config=config, seed=seed, samples=samples, edits=edits))

    def run(
        self,
        image: UserPicture | Opened | None,
        *,
        config: SamplingConfig,
        seed: int | None = None,
        samples: int = 1,
        edits: ColorEdits = NO_EDITS,
    ) -> Iterator[Any]:
        """Yield the results of `__call__` for the settings `config`."""
        seed, samples = secrets.randbits(31) if seed is None else as_seed(seed), as_count(samples)
        given = image if isinstance(image, (Drawing, Opened, type(None))) else as_photo(image)
        encoded = self.encode(given, config=config, edits=edits)
        for number in range(seed, seed + samples):
            *_, x_0 = self.sample(encoded, config=config, seed=number)
            pixels = self.decode(x_0, encoded)
            guide = encoded.edits.guide
            matched = {} if guide is None else {"matched": guide.share}
            if not self.loaded.task.space.keeps_photo:
                result = Image.fromarray(pixels)
                result.info["seed"] = number
                yield result
            else:
                photo = given if isinstance(given, Photo) else Photo(pixels)
                photo = edits.finish(with_pixels(photo, pixels, seed=number, **matched))
                yield photo.to_image() if isinstance(image, Image.Image) else photo

    def frames(
        self,
        image: UserPicture | Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        seed: int,
        edits: ColorEdits = NO_EDITS,
        encoded: Encoded | None = None,
    ) -> Iterator[Image.Image]:
        """Yield the finished RGB picture of every x_t, pure noise first, the result last.

        `encoded` is the result of `encode` for the same arguments, if it was called before.
        """
        config = self.sampling if config is None else config
        encoded = encoded or self.encode(image, config=config, edits=edits)
        for x_t in self.sample(encoded, config=config, seed=seed):
            yield Image.fromarray(to_8_bits(self.decode(x_t, encoded)))

    def encode(
        self,
        image: UserPicture | Opened | None = None,
        *,
        config: SamplingConfig | None = None,
        edits: ColorEdits = NO_EDITS,
    ) -> Encoded:
        """Encode a picture for sampling, once for any number of samples.

        The null condition is computed only if `config` has guidance. Raises ConfigError if the
        model takes another kind of picture, ImageError for a photo where a drawing is expected.
        """
        config = self.sampling if config is None else config
        check_kind("config", config, SamplingConfig)
        check_kind("edits", edits, ColorEdits)
        self.loaded.check_sampling(config)
        if edits.invert and not isinstance(image, (Drawing, Opened, type(None))):
            image = edits.begin(as_photo(image))
        opened, condition = self.prepare(image, size=config.size, as_is=edits.as_is)
        prepared = self._prepare_edits(opened, condition, edits)
        if edits.references:
            guide = self._match(condition, edits, size=config.size)
            prepared = replace(prepared, guide=guide)
        guided = any(scale != 1 for scale in self._guidance_scales(config))
        coherent = config.coherence > 0
        source = opened.source if opened else None
        words = (config.prompt, config.negative_prompt)
        return self.encode_condition(
            condition, source, prepared, guided=guided, coherent=coherent, words=words
        )

    def encode_condition(
        self,
        condition: np.ndarray,
        source: np.ndarray | None = None,
        edits: PreparedEdits = UNEDITED,
        *,
        guided: bool = True,
        coherent: bool = False,
        words: Words = NO_WORDS,
    ) -> Encoded:
        """Encode a prepared condition (H,W,N) in [-1,1].

        `guided` and `coherent`: for sampling with guidance, or with coherence.
        """
        rows, columns = (side // self.cell for side in condition.shape[:2])
        padded = pad_to_stride(condition, self.loaded.stride)
        given = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
        size = (padded.shape[0] // self.cell, padded.shape[1] // self.cell)
        space = self.loaded.task.space

        def fit(values: np.ndarray) -> np.ndarray:
            return space.fit_hints(values, condition)

        hints = edits.encode_hints(
            fit, cell=self.cell, scale=space.scale, inside=(rows, columns), size=size
        )
        windows = self._plan_windows(size, (rows, columns))

        def move(array: np.ndarray) -> Any:
            return self.backend.to_device(np.ascontiguousarray(array))

        conds = []
        for cells, pixels in zip(windows.parts, windows.scaled(self.cell).parts, strict=True):
            shown = None if hints is None else move(hints[cells])
            window = (windows.height, windows.width)
            conds.append(
                self.backend.encode(move(given[pixels]), shown, window, guided=guided, words=words)
            )
        flat = None
        if source is not None and source.ndim == 2 and edits.flat and not space.is_latent:
            ink = np.asarray((condition[..., 0] + 1) * 127.5, np.uint8)
            flat = FlatColors.build(
                ink,
                (rows, columns),
                strength=edits.flat,
                strokes=edits.strokes,
                to_device=self.backend.to_device,
            )
        alike = None
        if coherent:
            alike = [self._find_similar(getattr(cond, "picture", cond)) for cond, *_ in conds]
        return Encoded(source, edits, windows, conds, size, (rows, columns), flat, alike)

    def _find_similar(self, cond: Any) -> SimilarColors:
        """The similar cells of a photo, from its cond (1,K,h,w)."""
        loaded = self.loaded
        channels = self.backend.to_numpy(cond)[0].astype(np.float32)
        L = 50 + 50 * channels[: loaded.fold**2].mean(0)
        masks = channels[-(loaded.patch_size**2) :]  # of hints, the last channel
        hinted = masks.max(0) > 0 if loaded.hint_channels else None
        features = channels[loaded.feature_channels]
        return SimilarColors.build(features, L, hinted=hinted, to_device=self.backend.to_device)

    def _plan_windows(self, size: tuple[int, int], inside: tuple[int, int]) -> Tiles:
        """One window for x_t of `size`, or several overlapping ones for long strips.

        `inside` are the cells that the picture covers. A window has the longest aspect that is
        sampled in one piece: square windows with half overlap are slower and less accurate.
        """
        side, overlap = max(size), 0
        if max(inside) > MAX_ASPECT * (min(inside) + 1):
            least = pad_to_stride(np.empty((self.loaded.condition_size, 1, 0)), self.loaded.stride)
            side = max(int(MAX_ASPECT * min(size)), len(least) // self.cell)
            overlap = side // 6
        return plan_tiles(*size, side=side, overlap=overlap)

    def sample(
        self, encoded: Encoded, *, config: SamplingConfig | None = None, seed: int
    ) -> Iterator[Any]:
        """Yield x_T, then x_t after every step: arrays (1,C,h,w) of the backend, on its device.

        Images are sampled one at a time: a CPU gains nothing from a batch, and convolutions round
        differently in batches of different sizes, so a result would depend on the batch.
        """
        config = self.sampling if config is None else config
        check_kind("config", config, SamplingConfig)
        check_kind("encoded", encoded, Encoded)
        space, backend = self.loaded.task.space, self.backend
        scales = self._guidance_scales(config)
        branches = guidance_branches(scales)
        if branches[-1] > 0 and encoded.conds[0][1] is None:
            raise ConfigError(
                "The picture was encoded without guidance: encode it with this config."
            )
        if config.coherence and encoded.alike is None:
            raise ConfigError(
                "The picture was encoded without coherence: encode it with this config."
            )
        source = NoiseSource(seed)
        patch_size = space.noise_patch(self.loaded.patch_size)

        def shrink(shape: tuple[int, ...]) -> tuple[int, ...]:
            return (*shape[:-2], *(side // patch_size for side in shape[-2:]))

        def sample_noise(shape: tuple[int, ...]) -> Any:
            return backend.to_device(spread_over_patches(source(shrink(shape)), patch_size))

        weight = backend.to_device(encoded.windows.weight)
        shape = shrink((1, space.channels, *encoded.size))
        album = encoded.edits.album
        shared = None if album is None else sample_initial_noise(album.seed, shape)
        noise = damp_broad_noise(source(shape), variety=config.variety, shared=shared)
        noise = spread_over_patches(noise, patch_size)

        diffusion = self.loaded.diffusion
        alphas_bar = compute_alphas_bar(diffusion)
        is_projected = config.guidance_eta != 1 and branches[0] == 0 and len(branches) > 1

        def predict(x_t: Any, t: float) -> Any:
            def one(part: Any, conds: tuple[Any, ...]) -> Any:
                outputs = backend.predict_each(part, t, [conds[number] for number in branches])
                guided = guide_along(dict(zip(branches, outputs, strict=True)), scales)
                if not is_projected:
                    return guided
                x_0 = to_x_0(diffusion.prediction_type, outputs[0], part, alphas_bar[int(t)])
                return project_guidance(guided, outputs[0], x_0, eta=config.guidance_eta)

            return predict_in_tiles(one, x_t, encoded.conds, tiles=encoded.windows, weight=weight)

        vividness = config.vividness if config.prompt == config.negative_prompt else 1.0

        def share(part: Any, similar: SimilarColors) -> Any:
            return part + config.coherence * (similar(part) - part)

        def correct(x_0: Any) -> Any:
            if encoded.flat is not None:
                x_0 = encoded.flat(x_0)
            if encoded.alike is not None and config.coherence:
                x_0 = predict_in_tiles(
                    share, x_0, encoded.alike, tiles=encoded.windows, weight=weight
                )
            return x_0 if vividness == 1 else space.saturate(x_0, vividness)

        return find_sampler(config.scheduler)(
            predict,
            backend.to_device(noise),
            scheduler=config.scheduler,
            config=diffusion,
            steps=config.steps,
            clip=space.clip,
            sample_noise=sample_noise,
            correct=correct,
        )

    def decode(self, x_0: Any, encoded: Encoded) -> np.ndarray:
        """x_0 (1,C,h,w) of `sample` as RGB (H,W,3) of the size of the photo or drawing.

        Chroma is combined with the photo's L*; a drawing's colours are finished along its lines.
        """
        return self.loaded.task.space.decode(
            self.to_cells(x_0, encoded), encoded.source, encoded.edits
        )

    def measure(
        self,
        image: UserPicture | Opened,
        *,
        config: SamplingConfig | None = None,
        seed: int,
        edits: ColorEdits = NO_EDITS,
    ) -> ChromaMeans:
        """The mean chroma of a photo's automatic colours per cell, without the finish."""
        encoded = self.encode(image, config=config, edits=edits)
        *_, x_0 = self.sample(encoded, config=config, seed=seed)
        source, prepared = encoded.source, encoded.edits
        if not self.loaded.task.space.keeps_photo or source is None:
            raise ConfigError(f"The model {self.loaded.name} does not colour photos.")
        inside = source if prepared.box is None else source[prepared.box]
        cells = self.to_cells(x_0, encoded) * self.loaded.task.space.scale
        return ChromaMeans.of(prepared.recolor(cells, inside))

    def to_cells(self, x_0: Any, encoded: Encoded) -> np.ndarray:
        """x_0 (1,C,h,w) of `sample` as the space decodes it, (h,w,C), without the padding, clipped.

        Latents are decoded by the VAE to more pixels. Only this method moves an array off the
        backend's device.
        """
        space, (rows, columns) = self.loaded.task.space, encoded.inside
        decoded = self.backend.decode(x_0)
        factor = decoded.shape[-1] // x_0.shape[-1]  # more than 1 after a VAE
        planes = self.backend.to_numpy(decoded)[0, :, : rows * factor, : columns * factor]
        planes = planes.clip(-space.clip, space.clip).transpose(1, 2, 0)
        return space.to_cells(np.ascontiguousarray(planes))

    def prepare(
        self, image: UserPicture | Opened | None, *, size: int | None, as_is: bool = False
    ) -> tuple[Opened | None, np.ndarray]:
        """The picture as model input, None without one, and the condition (h,w,N) in [-1,1].

        The condition has the model's size. `as_is` skips the cleaning of a drawing and the removal
        of a scan's borders and correction of its levels. Raises ConfigError if the model takes
        another kind of picture, ImageError for a photo where a drawing is expected.
        """
        name, task = self.loaded.name, self.loaded.task
        if task.enlarges:
            raise ConfigError(
                f"The model {name} enlarges pictures: `Cascade` and `condiff render "
                "--upscale` run it."
            )
        side = self.loaded.condition_size if size is None else size
        least = min(BACKBONE_STRIDE, self.loaded.condition_size)
        if side < least:
            raise ConfigError(f"size is at least {least}, not {side}.")
        if image is not None:
            opened = image if isinstance(image, Opened) else self.loaded.open(image, as_is=as_is)
            return opened, opened.to_condition(side, self.cell)
        if task.picture is not None:
            raise ConfigError(f"The model {name} takes {task.picture.what}: give one.")
        return None, np.zeros((side, side, 0), np.float32)

    def _prepare_edits(
        self, opened: Opened | None, condition: np.ndarray, edits: ColorEdits
    ) -> PreparedEdits:
        """The edits of a photo or a drawing, hints at the condition's size."""
        space = self.loaded.task.space
        if space.keeps_photo:
            refused = [name for name in edits.changed() if name in OF_DRAWINGS]
        else:
            takes = [*OF_DRAWINGS, "as_is", "hints"] if opened is not None else []
            refused = [name for name in edits.changed() if name not in takes]
        if "hints" in edits.changed() and not self.loaded.hint_channels:
            refused.append("hints")
        if refused:
            name = self.loaded.name
            raise ConfigError(f"The model {name} takes no {refused[0]}.")
        if opened is None:
            return UNEDITED
        size = (condition.shape[0], condition.shape[1])
        return edits.prepare(
            photo=opened.size, size=size, frame=opened.frame, values_of=space.hint_values
        )

    def _match(self, condition: np.ndarray, edits: ColorEdits, *, size: int | None) -> Guide:
        """The guide of the references; if they are strict, ImageError if too little matches."""
        photo = FeatureMap.build(self._map_features(condition), (condition[..., 0] + 1) * 50)
        references = edits.open_references()
        views = [self._open_view(r, size, mirror=m) for r in references for m in (False, True)]
        guide = match_references(photo, views)
        if edits.strict_reference and guide.share < MIN_SHARE:
            raise ImageError(
                f"the references match {guide.share:.0%} of the photo, less than {MIN_SHARE:.0%}; "
                "give a colour photo of the same scene, or leave --strict-reference out"
            )
        return guide

    def _open_view(self, reference: Reference, size: int | None, *, mirror: bool) -> FeatureMap:
        """A reference, or its mirror image, in cells; the most recent ones are cached."""
        side = self.loaded.condition_size if size is None else size
        key = (reference.digest, side, mirror)
        with self._mutex:
            if key in self._views:
                self._views.move_to_end(key)
                return self._views[key]
        pixels = reference.pixels[:, ::-1] if mirror else reference.pixels
        opened, condition = self.prepare(Photo(np.ascontiguousarray(pixels)), size=size)
        assert opened is not None and opened.photo is not None
        inside = opened.photo if opened.frame is None else opened.photo[opened.frame.box]
        lab = rgb_to_lab(inside)
        view = FeatureMap.build(self._map_features(condition), lab[..., 0], lab[..., 1:])
        with self._mutex:
            self._views[key] = view
            while len(self._views) > KEPT_VIEWS:
                self._views.popitem(last=False)
        return view

    def _map_features(self, condition: np.ndarray) -> np.ndarray:
        """The encoder's feature map (h,w,K) of a condition (H,W,N), with the size of its cond."""
        encoded = self.encode_condition(condition, guided=False)
        patch = self.loaded.patch_size
        rows, columns = (max(1, side // patch) for side in encoded.inside)
        pictures = [getattr(cond, "picture", cond) for cond, _ in encoded.conds]
        windows = [self.backend.to_numpy(picture)[0] for picture in pictures]
        windows = [window[self.loaded.feature_channels] for window in windows]
        maps = np.zeros((len(windows[0]), *(side // patch for side in encoded.size)), np.float32)
        for part, window in zip(encoded.windows.parts, windows, strict=True):
            place = tuple(slice(s.start // patch, s.stop // patch) for s in part[1:])
            maps[(slice(None), *place)] = window
        return np.ascontiguousarray(maps[:, :rows, :columns].transpose(1, 2, 0))

    def _guidance_scales(self, config: SamplingConfig) -> tuple[float, ...]:
        """The guidance scales of the conditions of `Backend.encode`; 1 is off.

        Two for a model that takes words and a picture, in this order; one for a picture alone; none
        for a model without a condition.
        """
        task = self.loaded.task
        if not task.takes_text:
            return (config.guidance_scale,) if task.picture else ()
        of_picture = config.image_guidance_scale
        same = config.prompt == config.negative_prompt  # then the two predictions are equal
        return (of_picture if same else config.guidance_scale, of_picture)


def open_model(
    name: str | Path, *, device: str, engine: str, threads: int
) -> tuple[ModelInfo, Backend]:
    """Open a model folder or the embedded model of that name, with the backend that runs it."""
    info = read_model_info(name)
    found = find_device(device, engine=engine)
    chosen = choose_engine(info, engine, found)
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(info.task.space.build_tables)  # while the graphs are read
        backend = build_engine(info, chosen, device=found, threads=threads)
        prepared.result()
    return info, backend


def find_sampler(scheduler: str) -> Callable[..., Iterator[Any]]:
    """The sampling function of a scheduler: condiff's own if there is one, else diffusers'."""
    if scheduler in SAMPLERS:
        return sample
    if not find_spec("diffusers"):
        raise DependencyError(
            f"The scheduler {scheduler} needs torch and diffusers: pip install torch "
            f"diffusers, or use {', '.join(SAMPLERS)}."
        )
    from condiff.diffusion.diffusers_schedulers import sample_with_diffusers

    return sample_with_diffusers
