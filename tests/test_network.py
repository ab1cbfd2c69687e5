"""The Spec as a PyTorch module, and its folding: names, counts, shapes and equal values, op by op."""

import numpy as np
import pytest
import torch
from conftest import tiny_nnunet

from monet_edge import spec as _spec
from monet_edge.architectures import ARCHITECTURES, attention_unet, monet, unet
from monet_train.fold import fold_tensors
from monet_train.network import Network

SMALL = {
    "monet": monet(),
    "monet, 3 channels and classes": monet(3, 3),
    "unet": unet(4, depth=2),
    "attention": attention_unet(4, depth=2, classes=3),
    "nnU-Net": tiny_nnunet(residual=True),
}


def trained(spec, seed=0):
    """A network with BatchNorm statistics that are not the initial ones, in evaluation mode."""
    torch.manual_seed(seed)
    network = Network(spec)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if ".bn." in name:
                tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith(("weight", "var")) else torch.randn_like(tensor) * 0.2)
    return network.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_state_dict_is_the_spec(name):
    spec = ARCHITECTURES[name]()
    with torch.device("meta"):
        state = Network(spec).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == _spec.tensor_shapes(spec)
    assert sum(value.numel() for value in state.values()) == _spec.count_floats(spec)


@pytest.mark.parametrize(
    ("name", "count"), [("monet", 401_666), ("unet-16", 1_943_761), ("unet-64", 31_042_369), ("attention-unet", 31_741_573)]
)
def test_parameters_are_the_papers(name, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Network(ARCHITECTURES[name]()).parameters()) == count


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_no_value(name):
    spec = SMALL[name]
    network = trained(spec)
    folded = Network(_spec.fold_batchnorm(spec)).eval()
    tensors = fold_tensors(spec, {key: value.numpy() for key, value in network.state_dict().items()})
    folded.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    images = torch.randn(2, spec.in_channels, 24, 16)
    with torch.no_grad():
        for (ref_name, ref), (comp_name, comp) in zip(network.values(images), folded.values(images), strict=True):
            assert ref_name == comp_name
            assert ref.shape[1:] == _spec.infer_shapes(spec, 24, 16)[ref_name]
            bound = 1e-4 * max(1.0, float(ref.abs().max()))
            assert float((ref - comp).abs().max()) <= bound, ref_name


def test_folding_forward_would_be_wrong_at_the_border():
    """Why a BatchNorm after a ReLU stays an affine: moved into the next convolution its shift is missing in the padding."""
    torch.manual_seed(0)
    x, weight, shift = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3), torch.randn(4)
    ref = torch.conv2d(x + shift[:, None, None], weight, padding=1)
    moved = torch.conv2d(x, weight, bias=torch.einsum("oikl,i->o", weight, shift), padding=1)
    assert torch.allclose(ref[..., 1:-1, 1:-1], moved[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(ref, moved, atol=1e-2)


def test_initial_weights_are_he_uniform():
    weight = Network(monet()).get_submodule("mid.f2").weight.detach().numpy()
    limit = np.sqrt(6 / (64 * 9))
    assert abs(weight).max() <= limit
    assert abs(weight).max() > 0.99 * limit
    assert abs(weight.std() - limit / np.sqrt(3)) < 0.02 * limit


def test_dropout_drops_whole_channels_and_only_in_training():
    network = trained(monet())
    images = torch.randn(1, 1, 16, 16)
    dropped = dict(network.train().values(images))["enc0.f1"]
    silent = (dropped == 0).all(dim=(2, 3))
    assert ((dropped == 0).any(dim=(2, 3)) == silent).all()
    assert bool(silent.any())
    assert torch.equal(network.eval()(images), network(images))
