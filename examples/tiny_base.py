"""Makes a tiny folder in the format of Stable Diffusion 1.x: random weights, for tests.

python examples/tiny_base.py base/
python examples/tiny_base.py base/ --prediction-type v_prediction --scheduler LCMScheduler
python examples/tiny_base.py base/ --autoencoder AutoencoderTiny

It has all the parts of a real one (U-Net with cross-attention, VAE of 4 latent channels that
shrinks pictures 8 times, CLIP text encoder, tokenizer) and 1.4 M parameters, and samples no
meaningful pictures. `condiff train --base base/` runs on it in seconds, as it would on trained
weights.
"""

import argparse
from pathlib import Path

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END, LENGTH = "<|startoftext|>", "<|endoftext|>", 16
WORDS = """
a the red blue green yellow white black brown orange house roof tree sun hill sky cloud door window
boat fish bird cat dog flower hat ball star moon car of and with on in photo drawing
"""


def make_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding like CLIP's, with merges for WORDS; other words are split into bytes."""
    letters = sorted(ByteLevel.alphabet())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
            if parts[0] not in pieces:
                pieces.append(parts[0])
    vocab = {piece: number for number, piece in enumerate([*pieces, START, END])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def make_vae() -> AutoencoderKL:
    """A VAE of 4 latent channels, which shrinks pictures 8 times."""
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=5.0,
    )
    with torch.no_grad():  # latents of almost no deviation, like those of a trained VAE
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -20
    return vae


def make_tiny_autoencoder() -> AutoencoderTiny:
    """A narrower autoencoder of TAESD's shape: no distribution, no scaling factor."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )


def make_base(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    scheduler: str = "DDIMScheduler",
    in_channels: int = 4,
    autoencoder: str = "AutoencoderKL",
    seed: int = 0,
) -> None:
    """Write the folder, as diffusers' StableDiffusionPipeline saves itself."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = make_tiny_autoencoder() if autoencoder == "AutoencoderTiny" else make_vae()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    process = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
    }
    offsets = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    sampler = getattr(diffusers, scheduler).from_config({**process, **offsets})
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def main() -> None:
    """Read the arguments and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prediction-type", default="epsilon", help="epsilon or v_prediction")
    parser.add_argument("--scheduler", default="DDIMScheduler", help="a scheduler of diffusers")
    parser.add_argument(
        "--autoencoder", default="AutoencoderKL", choices=["AutoencoderKL", "AutoencoderTiny"]
    )
    options = parser.parse_args()
    diffusers.utils.logging.disable_progress_bar()
    make_base(
        options.folder,
        prediction_type=options.prediction_type,
        scheduler=options.scheduler,
        autoencoder=options.autoencoder,
    )
    print(options.folder)


if __name__ == "__main__":
    main()
