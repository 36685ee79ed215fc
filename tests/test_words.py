"""Words for condiff's own models: tokens, the text encoder, prompts, captions in training."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from condiff import Pipeline
from condiff.backends.onnx_export import compare_engines, write_graphs
from condiff.backends.table import ENGINES, list_engines
from condiff.cli import main
from condiff.config import DiffusionConfig, ModelConfig, TrainConfig, parse_config
from condiff.data.captions import turn_hues, vary_caption
from condiff.data.shuffling import Order
from condiff.errors import ConfigError
from condiff.models.denoiser import build_model
from condiff.models.info import read_model_info
from condiff.models.initialization import load_init
from condiff.models.loading import load_model, save_model
from condiff.models.text_encoder import TextEncoder
from condiff.tasks import find_task, task_of
from condiff.training.trainer import Trainer
from condiff.words import HASHES, MAX_WORDS, split_words, tokenize
from tests.conftest import make_photo, save_tiny
from tests.test_base import train

SHAPE = {
    "sample_size": 16, "fold": 2, "backbone_variant": None, "block_out_channels": (8, 16),
    "norm_num_groups": 4, "attention_head_dim": 8, "text_channels": 8,
}  # fmt: skip


def settings(**changes):
    """The configuration of a short run on drawings with captions."""
    values = {
        "task": "sketch", "train_batch_size": 4, "max_train_steps": 6, "sample_steps": 3,
        "model": {**SHAPE, "block_out_channels": [8, 16]},
        "diffusion": {"cond_drop_prob": 0.1},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 1, "ema_decay": 0.5},
        "data": {
            "size": 32, "caption_dropout": 0.2, "tag_dropout": 0.3, "color_words": 0.5,
            "recolor": 0.5,
        },
    }  # fmt: skip
    return parse_config(values | changes, origin="the test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of drawings and words, with random weights and graphs."""
    folder = tmp_path_factory.mktemp("models") / "words"
    torch.manual_seed(0)
    task = find_task("sketch").with_text()
    model = build_model(ModelConfig(**SHAPE), task).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.text_encoder.words.weight[0] = 0
    options = {"task": task, "diffusion": DiffusionConfig(), "dtype": torch.float32}
    save_model(folder, model, condition_size=32, **options)
    return write_graphs(folder)


def drawing():
    image = Image.new("L", (90, 60), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 70, 50), outline="black", width=2)
    return image


def test_words_are_split_without_case_punctuation_and_plural():
    assert split_words("Two red ROSES, (glass)!") == ["two", "red", "rose", "glass"]
    assert split_words("") == split_words(" ,; ") == []
    assert split_words("Häuser im Süden") == ["häuser", "im", "süden"]


def test_tokens_are_numbers_of_the_vocabulary_and_zero_is_no_word():
    tokens = tokenize(["red house", ""], buckets=100)
    assert tokens.shape == (2, 2, HASHES) and tokens.dtype == np.int64
    assert tokens[0].min() >= 1 and tokens[0].max() <= 100 and not tokens[1].any()
    assert tokenize(["red"], buckets=100)[0, 0].tolist() == tokens[0, 0].tolist()
    long = tokenize(["word " * (MAX_WORDS + 5)], buckets=100)
    assert long.shape[1] == MAX_WORDS


def test_two_words_of_a_language_hardly_ever_share_all_their_numbers():
    words = [f"{a}{b}{c}" for a in "bcdfgh" for b in "aeiou" for c in "klmnprst"]
    found = {tuple(tokenize([word], buckets=8192)[0, 0]) for word in words}
    assert len(found) == len(words)


def test_a_new_text_encoder_gives_zero_and_no_words_always_do():
    torch.manual_seed(0)
    encoder = TextEncoder(out_channels=12, channels=8)
    tokens = torch.from_numpy(tokenize(["red house", ""], buckets=8192))
    assert not encoder(tokens).any()
    torch.nn.init.normal_(encoder.project.weight)
    embeddings = encoder(tokens)
    assert embeddings.shape == (2, 12) and embeddings[0].any() and not embeddings[1].any()
    assert not encoder(tokens, kept=torch.zeros(2, 1, 1)).any()


def test_an_embedding_depends_on_the_order_of_words_but_not_on_its_neighbours():
    torch.manual_seed(0)
    encoder = TextEncoder(out_channels=12, channels=8).eval()
    torch.nn.init.normal_(encoder.project.weight)
    embed = partial(tokenize, buckets=8192)
    alone = encoder(torch.from_numpy(embed(["red house"])))
    beside = encoder(torch.from_numpy(embed(["red house", "a far longer text of six"])))
    turned = encoder(torch.from_numpy(embed(["house red"])))
    torch.testing.assert_close(alone[0], beside[0])
    assert (alone - turned).abs().max() > 1e-3


def test_a_new_text_encoder_changes_nothing_that_a_model_computes(tmp_path):
    folder = save_tiny(tmp_path, "sketch")
    plain = load_model(folder).model
    config = ModelConfig(**SHAPE)
    wordy = load_init(str(folder), config, find_task("sketch").with_text()).eval()
    x_t, t = torch.randn(2, 3, 32, 32), torch.tensor([10.0, 700.0])
    condition = torch.randn(2, 1, 32, 32)
    expected = plain(x_t, t, condition)
    found = wordy(x_t, t, condition, tokens=wordy.tokenize(["red house", ""]))
    torch.testing.assert_close(found, expected)


def test_a_folder_with_words_is_read_back(folder):
    info = read_model_info(folder)
    assert info.task.takes_text and info.text_buckets == 8192
    assert (folder / "text_encoder" / "model.onnx").is_file()
    model = load_model(folder).model
    assert model.text_encoder.config["channels"] == 8


def test_the_graphs_of_words_give_torchs_numbers(folder):
    found = compare_engines(folder)
    assert {each.engine for each in found} == {n for n in list_engines() if ENGINES[n].open_graph}
    assert max(max(each.encoder, each.unet) for each in found) < 1e-4


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_prompt_changes_the_picture_and_so_does_a_negative_one(folder, engine):
    pipeline = Pipeline.from_pretrained(folder, device="cpu", engine=engine)
    make = partial(pipeline, drawing(), seed=1, steps=2)
    plain = make()[0].tobytes()
    assert make(prompt="")[0].tobytes() == plain
    red = make(prompt="red house", guidance_scale=3.0)[0].tobytes()
    assert red != plain
    assert make(prompt="Red, HOUSES!", guidance_scale=3.0)[0].tobytes() == red
    away = make(prompt="red house", negative_prompt="blue", guidance_scale=3.0)[0].tobytes()
    assert away not in (red, plain)


def test_vividness_is_for_pictures_without_words(folder):
    pipeline = Pipeline.from_pretrained(folder, device="cpu", engine="torch")
    make = partial(pipeline, drawing(), seed=1, steps=2)
    assert make(vividness=1.5)[0].tobytes() != make(vividness=1.0)[0].tobytes()
    red = [make(prompt="red", vividness=v)[0].tobytes() for v in (1.0, 1.5)]
    assert red[0] == red[1]


def test_guidance_along_words_and_picture_is_the_chain_of_three_outputs(folder):
    pipeline = Pipeline.from_pretrained(folder, device="cpu", engine="torch")
    config = pipeline.sampling.override(
        {"prompt": "red", "guidance_scale": 3.0, "image_guidance_scale": 2.0, "steps": 1}
    )
    encoded = pipeline.encode(drawing(), config=config)
    (first, second, third) = encoded.conds[0]
    assert torch.equal(first.picture, second.picture) and first.words.any()
    assert not second.words.any() and not third.words.any() and not third.picture.any()


def test_a_model_without_words_refuses_a_prompt_before_it_is_loaded(tmp_path, capsys):
    folder = save_tiny(tmp_path, "sketch")
    drawing().save(tmp_path / "drawing.png")
    args = ["render", str(tmp_path / "drawing.png"), "-m", str(folder), "--prompt", "a red car"]
    assert main(args) == 2
    assert "takes no words" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.render.png"))


def test_the_command_line_takes_a_prompt(folder, tmp_path):
    drawing().save(tmp_path / "drawing.png")
    args = ["render", str(tmp_path / "drawing.png"), "-m", str(folder), "--steps", "2"]
    assert main([*args, "--seed", "1", "--prompt", "a red car", "--guidance-scale", "4"]) == 0
    with Image.open(tmp_path / "drawing.render.png") as image:
        assert image.size == (90, 60)


def test_captions_reach_the_text_encoder_and_a_run_resumes_bit_for_bit(captioned_folder, tmp_path):
    whole = train(settings(), captioned_folder, tmp_path / "whole")
    train(settings(), captioned_folder, tmp_path / "parts", until=3)
    parts = train(settings(), captioned_folder, tmp_path / "parts")
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert whole.model.text_encoder.project.weight.any()
    assert whole.sample_grid(photos=2, steps=1) is not None
    assert read_model_info(whole.save()).task.takes_text
    assert "text encoder of 8 channels" in (tmp_path / "whole/model/README.md").read_text("utf-8")


def test_captions_come_with_cached_features(captioned_folder, tmp_path):
    config = settings(
        model={**SHAPE, "block_out_channels": [8, 16], "backbone_variant": "lite0"},
        data={"size": 32, "cache_features": True},
    )
    trainer = Trainer(config, captioned_folder, tmp_path)
    list(trainer.fill_cache())
    texts = trainer.dataset.views.photos
    order = Order(len(texts), seed=config.seed)
    batch = next(trainer.batches())
    assert batch["texts"] == [texts[order.at(i)[1]].text for i in range(4)]
    assert sum(map(bool, batch["texts"])) >= 2
    assert len(list(trainer.steps())) == 6


@pytest.mark.parametrize("precision", ["no", "auto"])
def test_a_run_that_begins_from_a_model_of_words_trains_its_words(
    folder, captioned_folder, tmp_path, precision
):
    """The settings name no text encoder, but the weights have one."""
    shape = {**SHAPE, "block_out_channels": [8, 16], "text_channels": None}
    config = settings(model=shape, data={"size": 32}, mixed_precision=precision)
    trainer = Trainer(config, captioned_folder, tmp_path, init=str(folder))
    before = trainer.model.text_encoder.project.weight.clone()
    assert len(list(trainer.steps())) == 6
    assert not torch.equal(trainer.model.text_encoder.project.weight, before)
    assert read_model_info(trainer.save()).task.takes_text


def test_a_run_learns_what_a_word_means(tmp_path):
    """Pictures are red or blue with similar lines: only the caption determines the colour."""
    rows = []
    for index in range(8):
        name = "red" if index % 2 else "blue"
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "text": f"{name} thing"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows), "utf-8")
    plain = {"size": 32, "hint_prob": 0.0}
    config = settings(
        max_train_steps=60, train_batch_size=8, data=plain, diffusion={"cond_drop_prob": 0.0},
        optimizer={"learning_rate": 1e-2, "warmup_steps": 1, "ema_decay": 0.9},
    )  # fmt: skip
    trainer = Trainer(config, tmp_path, tmp_path / "run")
    for _ in trainer.steps():
        pass
    pipeline = Pipeline.from_pretrained(trainer.save(half=False), device="cpu", engine="torch")
    blank = drawing().resize((32, 32))
    means = {
        name: np.asarray(pipeline(blank, seed=1, steps=4, prompt=name)[0]).mean((0, 1))
        for name in ("red", "blue")
    }
    assert means["red"][0] > means["red"][2] + 20 and means["blue"][2] > means["blue"][0] + 20


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "none"}, "takes no words"),
        ({"task": "upscale"}, "takes no words"),
        ({"model": {**SHAPE, "text_channels": None}}, "model.text_channels"),
        (
            {"task": "colorize", "diffusion": {}, "data": {"size": 32, "cache": "device"}},
            "keeps no captions",
        ),
    ],
)
def test_settings_of_words_that_do_not_go_together_are_refused(changes, sentence):
    config = TrainConfig.model_validate(settings().model_dump() | changes)
    with pytest.raises(ConfigError, match=sentence):
        task_of(config).check(config)


def vary(text, seed=0, **changes):
    config = settings(data={"size": 32, **changes}).data
    pixels = np.full((16, 16, 3), (200, 30, 30), np.uint8)
    return vary_caption(text, pixels, np.random.default_rng(seed), config)


def test_captions_lose_parts_or_themselves_as_the_settings_say():
    assert vary("a, b,c")[0] == "a, b,c"  # as it is written
    assert vary("a, b,c", tag_dropout=1e-9)[0] == "a, b, c"
    assert vary("a, b", caption_dropout=1.0)[0] == "" == vary("a, b", tag_dropout=1.0)[0]
    kept = {vary("a, b", seed, tag_dropout=0.5)[0] for seed in range(30)}
    assert kept == {"", "a", "b", "a, b"}


def test_colours_are_named_as_the_pixels_have_them_after_their_hues_are_turned():
    text, pixels = vary("apple", color_words=1.0)
    assert text == "red, apple" and (pixels == (200, 30, 30)).all()
    turned = {vary("apple", seed, color_words=1.0, recolor=1.0)[0] for seed in range(30)}
    assert {"blue, apple", "green, apple"} <= turned
    assert vary("apple", recolor=1.0)[0] == "apple"  # nothing names the colours


def test_turning_hues_keeps_lightness_and_greys():
    picture = np.asarray(make_photo(20, 20))
    assert np.abs(turn_hues(picture, 0.0).astype(int) - picture).max() <= 1
    grey = np.full((4, 4, 3), 90, np.uint8)
    assert (turn_hues(grey, 120.0) == grey).all()
    from condiff.color.lab import lightness

    difference = lightness(turn_hues(picture, 140.0)) - lightness(picture)
    assert np.abs(difference).mean() < 1
