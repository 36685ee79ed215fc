"""Preview grids during training: a few photos of the data, sampled from fixed noise."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from condiff.config import TrainConfig
from condiff.data.crops import Batch
from condiff.diffusion.sampler import sample, sample_initial_noise, spread_over_patches
from condiff.figures import make_contact_sheet
from condiff.models.denoiser import Denoiser, Model
from condiff.tasks import Task
from condiff.training.latents import LatentParts
from condiff.words import WithWords

SIDE = 128  # pixels of a picture in the grid, at most


@torch.no_grad()
def sample_grid(
    model: Denoiser,
    task: Task,
    batch: Batch,
    *,
    config: TrainConfig,
    photos: int,
    steps: int,
    parts: LatentParts | None = None,
) -> Image.Image:
    """A grid of one column per photo: its condition if there is one, the sample, the truth.

    Samples have the training size; photo i starts from the noise of seed i. `parts` decode the
    latents of a model on a base.
    """
    size = config.model.sample_size
    x_0, condition = batch["x_0"][:photos], batch["condition"][:photos]
    was_training = model.training
    model.eval()
    cond = _encode(model, batch, photos, size)
    patch_size = task.space.noise_patch(model.patch_size)
    shape = (task.space.channels, size // patch_size, size // patch_size)
    drawn = [sample_initial_noise(seed, shape) for seed in range(len(x_0))]
    noise = spread_over_patches(np.stack(drawn), patch_size)

    def predict(x_t: Tensor, t: float) -> Tensor:
        return model.predict(x_t, torch.full((len(x_t),), t, device=x_t.device), cond)

    *_, sampled = sample(
        predict,
        torch.from_numpy(noise).to(x_0.device),
        scheduler="ddim",
        config=config.diffusion,
        steps=min(steps, config.diffusion.num_train_timesteps),
        clip=task.space.clip,
    )
    model.train(was_training)
    if parts is not None:
        pictures = [sampled, x_0.chunk(2, dim=1)[0], parts.frozen.unscale(condition)]
        decoded = [[parts.frozen.decode(each[None]) for each in latents] for latents in pictures]
        parts.frozen.release()
        sampled, x_0, shown = (torch.cat(each) for each in decoded)
        rows = [to_pictures(image, condition, task) for image in (shown, sampled, x_0)]
        return make_contact_sheet(rows, side=min(SIDE, rows[0][0].width))
    rows = [to_pictures(image, condition, task) for image in (sampled, x_0)]
    if task.picture is not None:
        keeps_photo = task.space.keeps_photo
        shown = torch.zeros_like(x_0) if keeps_photo else task.picture.show(condition)
        rows.insert(0, to_pictures(shown, condition, task))
    if task.enlarges:
        rows.insert(1, to_pictures(condition[:, :3], condition, task))
    return make_contact_sheet(rows, side=min(SIDE, max(p.width for row in rows for p in row)))


def _encode(model: Denoiser, batch: Batch, photos: int, size: int) -> Any:
    """The condition of the first photos, encoded for x_t of `size`."""
    condition = batch["condition"][:photos]
    if not isinstance(model, Model):
        return WithWords(condition, batch["words"][:photos])
    features = batch["features"]
    if features is not None:
        features = {stride: maps[:photos] for stride, maps in features.items()}
    cond = model.encoder(condition, features=features, size=(size, size))
    if model.text_encoder is None:
        return cond
    return WithWords(cond, model.text_encoder(batch["tokens"][:photos]))


def to_pictures(x_0: Tensor, condition: Tensor, task: Task) -> list[Image.Image]:
    """x_0 (B,C,h,w) as RGB pictures; chroma is combined with the condition, L*."""
    return [Image.fromarray(pixels) for pixels in task.space.decode_batch(x_0, condition)]
