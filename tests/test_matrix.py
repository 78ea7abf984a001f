"""Any backbone with any conditioning: each pair builds from a conf, learns, and hears no padding and no other item."""

import copy

import pytest
import torch

from tests import tiny
from tse_lib.config import Config, build
from tse_lib.losses.sdr import neg_si_sdr
from tse_lib.models import build_model, task_of
from tse_lib.models.conditioned import BACKBONES, KINDS
from tse_lib.nn.conditioning import OF_VECTORS

GRID = {"n_fft": 32, "hop_length": 16, "num_blocks": 2, "emb_dim": 8, "emb_ks": 2, "num_heads": 2, "qk_dim": 2}
FRAMES = {"num_filters": 8, "kernel_size": 16, "stride": 8}
CHUNKS = {**FRAMES, "chunk_size": 10, "num_blocks": 2}
SMALL = {  # each with two places to inject at
    "conv_tasnet": {**FRAMES, "bottleneck_dim": 8, "hidden_dim": 8, "skip_dim": 8, "num_blocks": 2, "num_repeats": 1},
    "dprnn": {**CHUNKS, "bottleneck_dim": 8, "hidden_dim": 4},
    "dptnet": {**CHUNKS, "hidden_dim": 4, "num_heads": 2},
    "sepformer": {**CHUNKS, "num_layers": 1, "num_heads": 2, "ffn_dim": 8},
    "mossformer2": {
        "encoder_dim": 8, "dim": 8, "num_layers": 2, "hidden_dim": 8, "qk_dim": 8, "group_size": 16, "memory_dim": 8,
        "memory_kernel": 3, "dropout": 0.0,
    },
    "sepmamba": {"dim": 4, "kernel_sizes": [16, 16], "strides": [4, 2], "num_blocks": 1},
    "spmamba": {**GRID, "expand": 1},
    "tf_gridnet": {**GRID, "lstm_hidden": 4},
    "hifi_tse": {
        "n_fft": 32, "hop_length": 16, "bands": 4, "feature_dim": 8, "lstm_hidden": 4, "num_heads": 2, "num_blocks": 2,
    },
}  # fmt: skip
RESNET = {"kind": "resnet", "embedding_dim": 6, "channels": [2, 4], "num_mels": 8}
OPTIONS = {"usef": {"num_heads": 2}, "lext": {"prefix_s": 0.02, "glue_s": 0.002}}
WHY_NOT = {
    ("sepmamba", "tf_map"): "tf_map: not for sepmamba, it has no spectrum; usef is",
    ("hifi_tse", "tf_map"): "tf_map: not for hifi_tse, its features are of bands, not of bins; usef is",
}
PAIRS = [(backbone, kind) for backbone in BACKBONES for kind in KINDS]
# parameters without any gradient, whatever conditions the network: the residual of the last block leads nowhere
DEAD = {"conv_tasnet": ["backbone.blocks.1.res_conv.weight", "backbone.blocks.1.res_conv.bias"]}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.manual_seed(seed))


def params_of(backbone, *kinds, **options):
    speaker = {"speaker": RESNET} if set(kinds) & set(OF_VECTORS) else {}
    paths = [{"kind": kind, **OPTIONS.get(kind, {})} for kind in kinds]
    return {"backbone": backbone, "backbone_params": SMALL[backbone], "conditioning": paths, **speaker, **options}


def make(*args, **options):
    torch.manual_seed(0)
    return build_model("conditioned", params_of(*args, **options), tiny.RATE)


@torch.no_grad()
def draw_weights(model):
    """What begins as the identity, and tiny, becomes large enough to be seen."""
    masks = getattr(getattr(model.backbone, "decoder", None), "projections", torch.nn.ModuleList())  # HiFi-TSE's
    for parameter in (*model.paths.parameters(), *masks.parameters()):
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(parameter.numel())))
    return model.eval()


def run(model, mixture, enroll, lengths=None):
    with torch.no_grad():
        return model(mixture, model.encode(enroll, lengths))


def conf_with(params):
    return build(Config, {**tiny.values(), "model": {"name": "conditioned", "params": params}}, "conf")


def test_small_backbones_are_all_there():
    assert set(SMALL) == set(BACKBONES) and task_of("conditioned") == "extract"


@pytest.mark.parametrize(("backbone", "kind"), PAIRS)
def test_a_pair(backbone, kind):
    """From a conf to one step, then what is there hears neither padding nor other items, and goes through its state."""
    conf = conf_with(params_of(backbone, kind))
    if (backbone, kind) in WHY_NOT:
        with pytest.raises(ValueError, match=WHY_NOT[backbone, kind]):
            build_model(conf.model.name, conf.model.params, conf.sample_rate)
        return
    torch.manual_seed(0)
    model = build_model(conf.model.name, conf.model.params, conf.sample_rate).train()
    mixture, enroll, lengths = noise(2, 1, 500), noise(2, 2, 300, seed=1), torch.tensor([[300, 0], [170, 230]])

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)  # behind a step, as film begins without the embedding
    for _ in range(2):
        optimizer.zero_grad()
        estimate = model(mixture, model.encode(enroll, lengths))
        assert estimate.shape == (2, 1, 1, 500) and estimate.dtype == torch.float32
        neg_si_sdr(estimate, noise(2, 1, 1, 500, seed=2)).sum().backward()
        optimizer.step()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    still = [name for name, grad in gradients.items() if grad is None or not grad.abs().max() > 0]
    assert still == DEAD.get(backbone, [])
    assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)

    draw_weights(model)
    together = run(model, mixture, enroll, lengths)
    enroll[1, 0, 170:], enroll[0, 1] = 9, 9  # what is not there
    torch.testing.assert_close(run(model, mixture, enroll, lengths), together)
    alone = run(model, mixture[:1], enroll[:1, :1]), run(model, mixture[1:], enroll[1:, :, :230], lengths[1:])
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-3, atol=1e-5 * float(together.abs().max()))
    other = run(model, mixture, noise(2, 2, 300, seed=5), lengths)
    assert (other - together).abs().amax(-1).min() > 1e-4 * together.abs().max()

    torch.manual_seed(1)
    again = build_model(conf.model.name, conf.model.params, conf.sample_rate).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(run(again, mixture, enroll, lengths), together)


VECTORS_BEHIND = [(backbone, kind) for backbone in SMALL for kind in ("film", "concat", "usef")]


@pytest.mark.parametrize(("backbone", "kind"), VECTORS_BEHIND)
def test_injected_again_behind_the_first_block(backbone, kind):
    path = {"kind": kind, "at": [0, 1], **OPTIONS.get(kind, {})}
    if kind == "usef" and "chunk_size" in SMALL[backbone]:
        with pytest.raises(ValueError, match=f"usef: at: .0, 1., but {backbone} has chunks .* film, .* fit"):
            make(backbone, kind, conditioning=path)
        return
    model = draw_weights(make(backbone, kind, conditioning=path))
    mixture, enroll = noise(1, 1, 300), noise(1, 1, 200, seed=1)
    estimate = run(model, mixture, enroll)
    for place in ("0", "1"):
        without = copy.deepcopy(model)
        del without.paths[kind][place]
        assert (run(without, mixture, enroll) - estimate).abs().max() > 1e-4 * estimate.abs().max()
    with pytest.raises(ValueError, match=rf"{kind}: at: \[0, 2\], but blocks of {backbone} are 0 to 1"):
        make(backbone, kind, conditioning={**path, "at": [0, 2]})
