"""Training the pretrained backbone: which blocks, at which rate, and what does not change."""

import pytest
import torch

from condiff.config import DataConfig, TrainConfig, read_config
from condiff.errors import ConfigError, DataError
from condiff.models.backbone import EfficientNetLite, load_pretrained
from condiff.models.loading import load_model
from condiff.tasks import find_task
from condiff.training.model_card import make_card
from condiff.training.run_folder import find_checkpoints
from condiff.training.trainer import Trainer

RATE = 0.1


def config(**optimizer):
    return TrainConfig.model_validate(
        {
            "train_batch_size": 4, "max_train_steps": 4, "sample_steps": 9,
            "model": {
                "sample_size": 8, "backbone_variant": "lite0", "neck_channels": 4,
                "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8,
            },
            "diffusion": {"cond_drop_prob": 0.1},
            "data": {"size": 32},
            "optimizer": {
                "learning_rate": 1e-3, "warmup_steps": 1, "ema_decay": 0.5, "weight_decay": 0,
                "backbone_rate": RATE, **optimizer,
            },
        }
    )  # fmt: skip


def moved_blocks(backbone):
    """The numbers of the blocks whose weights are not the pretrained ones."""
    pairs = zip(backbone.blocks, load_pretrained("lite0").blocks, strict=True)
    return [
        number
        for number, (ours, its) in enumerate(pairs)
        if any(
            not torch.equal(a, b) for a, b in zip(ours.parameters(), its.parameters(), strict=True)
        )
    ]


@pytest.mark.parametrize("stride, first", [(2, 0), (4, 1), (8, 3), (16, 5), (32, 11)])
def test_the_blocks_from_a_stride_on_are_unfrozen(stride, first):
    """Lite0 has 1, 2, 2, 6 and 5 blocks with maps of stride 2, 4, 8, 16 and 32."""
    backbone = EfficientNetLite("lite0")
    backbone.train_from(stride)
    unfrozen = [all(p.requires_grad for p in block.parameters()) for block in backbone.blocks]
    assert unfrozen == [number >= first for number in range(16)]
    assert not any(p.requires_grad for p in backbone.stem.parameters())
    by_size = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert by_size[stride].requires_grad and (stride == 2 or not by_size[stride // 2].requires_grad)


def test_blocks_that_the_model_does_not_use_stay_frozen(photo_folder):
    """DDP ends with an error where a trained parameter gets no gradient."""
    settings = config(backbone_stride=8)
    narrow = settings.model.model_copy(update={"feature_strides": (8, 16)})
    trainer = Trainer(settings.model_copy(update={"model": narrow}), photo_folder, None)
    next(iter(trainer.steps()))
    assert all(p in trainer.optimizer.state for p in trainer.model.trainable())


def test_the_last_blocks_are_trained_and_saved(photo_folder, tmp_path):
    trainer = Trainer(config(backbone_stride=32), photo_folder, tmp_path)
    before = trainer.model.backbone.stem.weight.clone()
    losses = [step.loss for step in trainer.steps()]
    assert len(losses) == 4
    assert moved_blocks(trainer.model.backbone) == list(range(11, 16))
    assert torch.equal(trainer.model.backbone.stem.weight, before)
    saved = load_model(trainer.save(half=False)).model.backbone
    trainer.ema.copy_to(trainer.model.trainable())
    for name, weight in trainer.model.backbone.state_dict().items():
        assert torch.equal(saved.state_dict()[name], weight), name


def test_the_backbones_rate_is_a_share(photo_folder):
    """AdamW's first step moves each weight that has a gradient by the learning rate."""
    trainer = Trainer(config(), photo_folder, None)
    names = {"unet.conv_out.bias": 1.0, "encoder.backbone.blocks.15.project.bias": RATE}
    parameters = dict(trainer.model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in names}
    step = next(iter(trainer.steps()))
    for name, share in names.items():
        moves = (parameters[name].detach() - before[name]).abs()
        assert moves.max() == pytest.approx(share * step.learning_rate, rel=1e-2), name


def test_a_run_with_a_tuned_backbone_resumes_bit_for_bit(photo_folder, tmp_path):
    straight = Trainer(config(), photo_folder, tmp_path / "a")
    list(straight.steps())
    begun = Trainer(config(), photo_folder, tmp_path / "b")
    for step in begun.steps():
        if step.step == 2:
            break
    begun.save_checkpoint()
    resumed = Trainer(config(), photo_folder, tmp_path / "b")
    resumed.resume(next(find_checkpoints(tmp_path / "b")))
    list(resumed.steps())
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_features_of_another_backbone_are_not_reused(photo_folder, tmp_path):
    """`--force` keeps the cache of the run before, which may have begun from other weights."""
    cached = config(backbone_rate=0).model_copy(
        update={"data": DataConfig(size=32, cache_features=True)}
    )
    run = Trainer(cached, photo_folder, tmp_path / "run")
    with torch.no_grad():
        run.model.backbone.blocks[15].project.bias += 1
    folder = run.save()
    with pytest.raises(DataError, match="was made from other data, settings or weights"):
        Trainer(cached, photo_folder, tmp_path / "run", init=str(folder))


def test_the_perceptual_term_compares_by_the_published_backbone(photo_folder, tmp_path):
    """Not by the model's own, which this run or an earlier one may have trained on grey photos."""
    first = Trainer(config(), photo_folder, tmp_path / "first")
    list(first.steps())
    values = config().model_dump()
    values["diffusion"] |= {"perceptual_weight": 0.3, "perceptual_share": 1.0}
    again = TrainConfig.model_validate(values)
    trainer = Trainer(again, photo_folder, None, init=str(first.save(half=False)))
    assert moved_blocks(trainer.model.backbone) == list(range(5, 16))
    list(trainer.steps())
    assert moved_blocks(trainer.perceptual_backbone) == []


def test_the_card_states_which_part_was_trained():
    run = config(backbone_stride=32)
    card = make_card(
        run, find_task("colorize"), data="12 photos", parameters=1, step=1, batch_size=4,
        minutes=1.0, device="1 x cpu", loss=0.1, init=None,
    )  # fmt: skip
    assert "| backbone | lite0, trained from stride 32 on, at 0.1 times the learning rate |" in card


@pytest.mark.parametrize(
    "task, setting, expected",
    [
        ("colorize", "data.cache_features=true", "what the frozen backbone computes"),
        ("colorize", "model.backbone_variant=null", "which this model does not have"),
        ("none", "data.size=64", "which this model does not have"),
        ("colorize", "model.feature_strides=[4, 8]", "Take 8 or less"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(task, setting, expected):
    run = ["max_train_steps=1", f"task={task}", "optimizer.backbone_rate=0.1", setting]
    with pytest.raises(ConfigError, match=expected):
        find_task(task).check(read_config(None, run))
