"""The cost of a step: counts compared with closed forms, measured times."""

import itertools
import time

import pytest
import torch

from condiff.config import TrainConfig
from condiff.training.memory import keeping, storage_of
from condiff.training.profile import count_cost, measure_peak, profile
from condiff.training.trainer import Trainer


def trainer(photo_folder, tmp_path, **changes):
    config = {
        "train_batch_size": 4, "max_train_steps": 4,
        "model": {
            "sample_size": 16, "backbone_variant": None, "block_out_channels": [8, 16],
            "norm_num_groups": 4, "attention_head_dim": 8, "fold": 1,
        },
        "data": {"size": 16},
    }  # fmt: skip
    return Trainer(TrainConfig.model_validate(config | changes), photo_folder, tmp_path)


def test_flops_are_those_of_the_convolutions_and_products(photo_folder, tmp_path):
    """Forward hooks count 2·K·C·k²·h·w a convolution, 2·in·out a linear layer; backward is twice
    that, except that nothing flows back into the image and the timestep."""
    run = trainer(photo_folder, tmp_path)
    unet, forward, first = run.model.unet, [], []

    def count(module, inputs, output):
        positions = output[0].numel() // (output.shape[1] if output.dim() == 4 else 1)
        weight = module.weight.numel() if output.dim() == 4 else module.weight.numel()
        rows = positions if output.dim() == 4 else output.numel() // output.shape[-1]
        forward.append(2 * weight * rows)
        if module in (unet.conv_in, unet.time_embedding.linear_1):
            first.append(forward[-1])

    cost = count_cost(run, cached_features=False)
    kinds = torch.nn.Conv2d | torch.nn.Linear
    for module in run.model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(count)
    run.error(run.first_batch(1), 0, alone=True)
    expected = 3 * sum(forward) - sum(first)
    attention = 8 * 8  # tokens of the middle block; its two products are not in the hooks
    bound = 3 * 2 * 2 * attention**2 * 16 * 2
    assert expected <= cost.flops <= expected + bound


def test_memory_grows_with_the_batch_by_the_activations(photo_folder, tmp_path):
    run = trainer(photo_folder, tmp_path)
    cost = count_cost(run, cached_features=False)
    count = sum(p.numel() for p in run.model.parameters())
    assert cost.parameter_bytes == 20 * count
    assert cost.memory(9) - cost.memory(8) == cost.activation_bytes
    # At least the input of every convolution has to be kept for its gradient.
    assert cost.activation_bytes > 4 * (2 + 1 + 3) * 16 * 16
    assert all(p.grad is None for p in run.model.parameters())


def test_casts_of_weights_are_kept_once_for_any_batch(photo_folder, tmp_path):
    """Autocast keeps a copy of each weight of a convolution or a product, in half precision."""
    run = trainer(photo_folder, tmp_path, mixed_precision="bf16")
    cost, kept = count_cost(run, cached_features=False), {}
    matrices = [p for p in run.model.parameters() if p.dim() > 1]
    assert cost.cast_bytes == pytest.approx(2 * sum(p.numel() for p in matrices), rel=0.1)
    with keeping(kept):
        run.error(run.first_batch(8), 0, alone=True)
    weights = {storage_of(p) for p in run.model.parameters()}
    a_step = sum(size for storage, size in kept.items() if storage not in weights)
    assert cost.memory(8) - cost.parameter_bytes == pytest.approx(a_step, rel=0.01)


@pytest.mark.slow
def test_counting_leaves_a_network_to_be_compiled(photo_folder, tmp_path):
    """torch never compiles a network that first ran under a counter, so profiles would be wrong."""
    run, graphs = trainer(photo_folder, tmp_path), []
    plain = count_cost(run, cached_features=False)
    torch._dynamo.reset()
    run.model.unet.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert count_cost(run, cached_features=False).flops == plain.flops
    assert not graphs
    run.error(run.first_batch(1), 0, alone=True)
    assert graphs


def test_the_profile_accounts_for_the_whole_step(photo_folder, tmp_path):
    run = trainer(photo_folder, tmp_path)
    result = profile(run, steps=2, warm_up=1)
    assert set(result.parts) == {"data", "forward", "backward", "update"}
    assert all(seconds > 0 for seconds in result.parts.values())
    step = sum(result.parts.values())
    flops = count_cost(run, cached_features=False).flops
    assert result.flops == pytest.approx(flops * 4 / step)
    assert 0 < result.flops < 2 * result.peak
    table = result.table()
    assert "images/s" in table
    assert "% of" in table


def test_the_peak_is_that_of_a_product(monkeypatch):
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert measure_peak(torch.device("cpu"), torch.float32, seconds=0) == 2 * 1024**3 / 0.5
