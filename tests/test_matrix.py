"""Any backbone with any conditioning: each pair builds from a conf, learns, and hears no padding and no other item."""

import copy

import pytest
import torch

from tests import extractor, tiny
from tse_lib.config import Config, build
from tse_lib.inference.extractor import Extractor
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


# ---------------------------------------------------------------------------------------- what all pairs have


def test_several_kinds_at_once_are_dropped_together():
    model = draw_weights(make("tf_gridnet", "film", "usef", "tf_map", "lext", condition_dropout=1.0))
    mixture, enroll = noise(1, 1, 300), noise(1, 1, 200, seed=1)
    condition = model.encode(enroll)
    assert set(condition) == {"embedding", "frames", "magnitudes", "prefix"}
    kept, other = model(mixture, condition), model(mixture, model.encode(noise(1, 1, 200, seed=2)))
    assert not torch.allclose(kept, other)
    dropped = [model.train()(mixture, told) for told in (condition, model.encode(noise(1, 1, 200, seed=2)))]
    assert torch.equal(*dropped) and dropped[0].isfinite().all()
    for name in condition:  # each of them is told something
        without = {**condition, name: torch.zeros_like(condition[name])}
        assert not torch.allclose(model.eval()(mixture, without), kept)


@pytest.mark.parametrize("kind", ["film", "adaln"])
def test_identity_at_the_start(kind):
    """Whoever is enrolled; film leaves the separator as it was."""
    model = make("conv_tasnet", kind).eval()
    mixture = noise(1, 1, 300)
    one, other = (run(model, mixture, noise(1, 1, 200, seed=seed)) for seed in (1, 2))
    assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(one, model.backbone(mixture)) == (kind == "film")


@pytest.mark.parametrize("kind", ["usef", "film", "tf_map"])
def test_enrolments_at_several_resolutions(kind):
    one, several = (make("conv_tasnet", kind, scales=scales) for scales in ([1], [1, 2, 4]))
    enroll, lengths = noise(2, 2, 1000, seed=1), torch.tensor([[1000, 0], [800, 999]])
    mixture = noise(2, 1, 300)
    together = run(draw_weights(several), mixture, enroll, lengths)
    torch.testing.assert_close(run(several, mixture[:1], enroll[:1, :1])[0], together[0], rtol=1e-3, atol=1e-6)
    if kind == "film":
        assert several.speaker.embed.linear.in_features == 3 * one.speaker.embed.linear.in_features
        return
    name = "frames" if kind == "usef" else "magnitudes"
    frames, more = (model.encode(enroll)[name] for model in (one, several))
    length = 124  # (1000 - 16) / 8 + 1
    assert frames.shape[1] == 2 * length and more.shape[1] == 2 * (length + 62 + 31)
    torch.testing.assert_close(more[:, length], more[:, :2].mean(1))  # the first of two


@pytest.mark.parametrize(("backbone", "kinds"), [("tf_gridnet", ["usef", "lext"]), ("dprnn", ["usef", "multiply"])])
def test_what_every_extractor_does(backbone, kinds):
    def make_one(**options):
        return draw_weights(make(backbone, *kinds, **options))

    extractor.check_shapes(make_one)
    extractor.check_items_do_not_mix(make_one)
    extractor.check_padding_of_an_enrolment(make_one)
    extractor.check_a_condition_is_plain(make_one)


@pytest.mark.parametrize("speaker", [RESNET, {"kind": "ecapa", "embedding_dim": 6, "dim": 32, "num_mels": 8}])
def test_speaker_encoders(speaker):
    """Of any length, the same at any level, and each parameter learns."""
    encoder = make("conv_tasnet", "film", speaker=speaker, scales=[1, 2]).speaker
    for size in (1, 80, 3001):
        assert encoder(noise(2, size)).shape == (2, 6) and encoder(torch.zeros(1, size)).isfinite().all()
    wave = noise(1, 4000)
    torch.testing.assert_close(encoder(8 * wave), encoder(wave), rtol=1e-4, atol=1e-5)
    assert (encoder(wave.diff()) - encoder(wave)).abs().max() > 1e-2
    (encoder(wave) * noise(1, 6, seed=3)).sum().backward()
    still = [name for name, parameter in encoder.named_parameters() if not parameter.grad.abs().max() > 0]
    assert still == []


def test_an_embedding_from_elsewhere():
    params = params_of("conv_tasnet", "multiply", speaker={"kind": "given", "embedding_dim": 5})
    conf = conf_with(params)
    ex = Extractor(draw_weights(make("conv_tasnet", "multiply", speaker=params["speaker"])), conf)
    mixture = tiny.voice("a-1", 1000)
    one, other = (ex.extract(mixture, ex.enroll_embedding(noise(5, seed=seed)), tiny.RATE) for seed in (1, 2))
    assert one.shape == mixture.shape and abs(one - other).max() > 1e-4 * abs(one).max()
    with pytest.raises(ValueError, match=r"embedding: 5 finite numbers expected, got the shape \(6,\)"):
        ex.enroll_embedding(noise(6))
    with pytest.raises(ValueError, match="an embedding is the condition, enrolments are not heard"):
        ex.extract(mixture, mixture, tiny.RATE)
    heard = conf_with(params_of("conv_tasnet", "usef"))
    with pytest.raises(ValueError, match="the model hears enrolments and takes no embedding"):
        Extractor(make("conv_tasnet", "usef"), heard).enroll_embedding(noise(5))


FILM, USEF = {"kind": "film"}, {"kind": "usef", "num_heads": 2}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backbone": "conv_tasnt"}, "backbone: unknown kind 'conv_tasnt'; did you mean 'conv_tasnet'"),
        ({"backbone_params": {"num_filtres": 8}}, "backbone conv_tasnet: unknown option .* did you mean 'num_filters'"),
        ({"backbone_params": {"num_sources": 2}}, "num_sources is always 1 here"),
        ({"conditioning": {"kind": "fillm"}}, "conditioning: unknown kind 'fillm'; did you mean 'film'"),
        ({"conditioning": {"at": [0]}}, "conditioning: {kind: …} expected"),
        ({"conditioning": []}, "conditioning: kinds, each once, expected, got"),
        ({"conditioning": [USEF, USEF]}, "conditioning: kinds, each once, expected, got .'usef', 'usef'"),
        ({"conditioning": {**USEF, "num_head": 2}}, "conditioning usef: unknown option .* did you mean 'num_heads'"),
        ({"conditioning": {"kind": "usef", "num_heads": 3}}, "num_heads 3 must divide the 8 features"),
        ({"conditioning": {**USEF, "at": []}}, "usef: at: numbers of blocks expected"),
        ({"conditioning": {"kind": "tf_map", "at": [1]}}, "tf_map: at: .1., but it is an input: at 0 only"),
        ({"conditioning": {"kind": "lext", "at": [0]}}, "conditioning lext: unknown option 'at'"),
        ({"conditioning": FILM}, "film: wants an embedding; speaker: {kind: resnet}, ecapa, given"),
        ({"speaker": RESNET}, "speaker resnet: no kind of conditioning among .'usef'. takes an embedding"),
        ({"conditioning": FILM, "speaker": {**RESNET, "chanels": 3}}, "speaker resnet: .* did you mean 'channels'"),
        ({"conditioning": FILM, "speaker": {"kind": "given"}}, "speaker given: embedding_dim, .* is missing"),
        ({"conditioning": [FILM, USEF], "speaker": {"kind": "given", "embedding_dim": 4}}, "usef: wants an enrolment"),
        ({"scales": [2, 2]}, "scales: different numbers of frames"),
        ({"condition_dropuot": 0.1}, "model conditioned: .* did you mean 'condition_dropout'"),
    ],
)
def test_options_that_cannot_be(options, told):
    params = {"backbone": "conv_tasnet", "backbone_params": SMALL["conv_tasnet"], "conditioning": USEF, **options}
    with pytest.raises(ValueError, match=told):
        build_model("conditioned", params, tiny.RATE)


@pytest.mark.parametrize("option", [{"film": True}, {"adaln": True}, {"enroll_scales": [1, 2]}, {"sample_rate": 8000}])
def test_hifi_tse_has_one_way_of_being_told(option):
    with pytest.raises(ValueError, match=f"backbone_params: {next(iter(option))} is always "):
        make("hifi_tse", "film", backbone_params={**SMALL["hifi_tse"], **option})


def test_hifi_tse_with_mamba_along_time_is_a_backbone_too():
    model = make("hifi_tse", "film", backbone_params={**SMALL["hifi_tse"], "time_rnn": "mamba"})
    assert run(model, noise(1, 1, 300), noise(1, 1, 200, seed=1)).shape == (1, 1, 1, 300)
