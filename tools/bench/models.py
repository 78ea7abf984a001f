"""Our networks against those of the toolkits they come from: ESPnet's TF-GridNet, Asteroid's TasNets.

    tools/install_oracles.sh
    tools/oracles/bin/python tools/bench/models.py [--device auto] [--only NAME ...] [--rounds 7] [--quick]

Both sides have the same weights (by the tables of tse_lib/hub) and take turns in this one process on the same noise:
`forward` without gradients, and `training step`, that is forward, backward and an AdamW update. One JSON line each
comes out (docs/architecture.md has its keys); `ratio` is the median over rounds of theirs / ours. Seconds are CPU
seconds on a CPU, else those of the device. `max_abs_diff` is of the first outputs, beside `max_abs`, the largest number
in them. Where a toolkit cannot be imported, `error` says so and ours is measured alone.
"""

import argparse
import importlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tse_lib.distributed import pick_device
from tse_lib.evaluation.results import machine
from tse_lib.hub import asteroid, complete, espnet
from tse_lib.hub.names import from_published
from tse_lib.models import build_model


class Case(NamedTuple):
    """A network of a toolkit: its class, what that is given, and mixtures of how many samples at which rate."""

    kind: str  # of ESPNET, or a class of asteroid.models
    config: dict[str, Any]
    batch: int
    size: int
    sample_rate: int


ESPNET = {  # a separator's name there -> its class in espnet2.enh.separator
    "tfgridnetv2": ("tfgridnetv2_separator", "TFGridNetV2"),
    "tfgridnetv3": ("tfgridnetv3_separator", "TFGridNetV3"),
}
SMALL = {"n_layers": 2, "lstm_hidden_units": 64, "emb_dim": 32}
KS16 = {"kernel_size": 16, "stride": 8, "chunk_size": 100}
KS2 = {"kernel_size": 2, "stride": 1, "chunk_size": 250}
CASES = {
    "TF-GridNet V2, small": Case("tfgridnetv2", SMALL, 1, 16000, 16000),
    "TF-GridNet V2, published": Case("tfgridnetv2", {}, 1, 8000, 8000),
    "TF-GridNet V2, J = I = 4": Case("tfgridnetv2", SMALL | {"emb_hs": 4}, 1, 16000, 16000),
    "TF-GridNet V2, I = 1": Case("tfgridnetv2", SMALL | {"emb_ks": 1}, 1, 16000, 16000),
    "TF-GridNet V3, small": Case("tfgridnetv3", SMALL, 1, 16000, 16000),
    "Conv-TasNet": Case("ConvTasNet", {"n_src": 2}, 1, 16000, 8000),
    "DPRNN-TasNet, filters of 16": Case("DPRNNTasNet", {"n_src": 2} | KS16, 1, 16000, 8000),
    "DPRNN-TasNet, filters of 2": Case("DPRNNTasNet", {"n_src": 2} | KS2, 1, 4000, 8000),
    "DPTNet": Case("DPTNet", {"n_src": 2, "n_repeats": 2}, 1, 16000, 8000),
}
STFT = {"n_fft": 128, "stride": 64}  # of V3, whose encoder is another module there
QUICK = ("TF-GridNet V2, small", "DPRNN-TasNet, filters of 16")

Separate = Callable[[Tensor], Tensor]  # (B, T) -> (B, S, T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="within a minute: 3 rounds of two networks, 0.5 s")
    args = parser.parse_args()
    device = pick_device(args.device)
    warnings.simplefilter("ignore", FutureWarning)  # theirs
    for name in args.only or (QUICK if args.quick else CASES):
        case = CASES[name]
        if args.quick:
            case = case._replace(size=case.sample_rate // 2)
        for line in measure(name, case, device, 3 if args.quick else args.rounds):
            print(json.dumps(line), flush=True)


def measure(name: str, case: Case, device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    toolkit = "espnet" if case.kind in ESPNET else "asteroid"
    facts: dict[str, Any] = {
        "bench": "models",
        "case": f"{name}, batch {case.batch}, {case.size} samples at {case.sample_rate} Hz",
        "baseline": f"{toolkit} {case.kind}",
        **dict.fromkeys(("baseline_s", "ours_s", "ratio", "rounds", "max_abs_diff", "max_abs")),
    }
    torch.manual_seed(0)
    sides: dict[str, tuple[nn.Module, Separate]] = {}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    try:
        sides["baseline"] = theirs, _ = build_theirs(case)
        versions[toolkit] = metadata.version(toolkit)
    except (ImportError, OSError) as error:  # OSError: a library built for another machine
        theirs = None
        facts["error"] = f"oracle not importable: {str(error).splitlines()[0]}; tools/install_oracles.sh installs it"
    ours = build_ours(case, theirs)
    sides["ours"] = ours, lambda mixture: ours(mixture[:, None])[:, :, 0]
    for network, _ in sides.values():
        network.to(device)
    mixture = torch.randn(case.batch, case.size, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        outputs = {side: run(mixture) for side, (_, run) in sides.items()}
    for what, make in (("forward", forward), ("training step", training_step)):
        seconds = take_turns({side: make(*both, mixture) for side, both in sides.items()}, device, rounds)
        line = facts | {"case": f"{facts['case']}, {what}", "ours_s": round(statistics.median(seconds["ours"]), 4)}
        if theirs is not None:
            ratios = (one / two for one, two in zip(seconds["baseline"], seconds["ours"], strict=True))
            line |= {
                "baseline_s": round(statistics.median(seconds["baseline"]), 4),
                "ratio": round(statistics.median(ratios), 3),
                "max_abs_diff": float((outputs["baseline"] - outputs["ours"]).abs().max()),
                "max_abs": float(outputs["baseline"].abs().max()),
            }
        yield line | {
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["cpu"],
            "versions": versions,
        }


def build_theirs(case: Case) -> tuple[nn.Module, Separate]:
    if case.kind not in ESPNET:
        network = getattr(importlib.import_module("asteroid.models"), case.kind)(**case.config).eval()
        return network, lambda mixture: network(mixture)
    module, name = ESPNET[case.kind]
    network = getattr(importlib.import_module(f"espnet2.enh.separator.{module}"), name)(None, **case.config).eval()
    if case.kind == "tfgridnetv2":
        return network, lambda mixture: torch.stack(network(mixture, lengths(mixture))[0], 1)
    encoder = importlib.import_module("espnet2.enh.encoder.stft_encoder").STFTEncoder(128, 128, 64)
    decoder = importlib.import_module("espnet2.enh.decoder.stft_decoder").STFTDecoder(128, 128, 64)

    def separate(mixture: Tensor) -> Tensor:
        spectra, frames = encoder(mixture, lengths(mixture))
        separated = network(spectra, frames)[0]
        return torch.stack([decoder(one, lengths(mixture))[0] for one in separated], 1)

    return network, separate


def lengths(mixture: Tensor) -> Tensor:
    return torch.full((len(mixture),), mixture.shape[1])


def build_ours(case: Case, theirs: nn.Module | None) -> nn.Module:
    """Our network, with the weights of theirs; an error unless each tensor has its place."""
    if case.kind in ESPNET:
        config = case.config | (STFT if case.kind == "tfgridnetv3" else {})
        name, params, names_of = "tf_gridnet", espnet.params_of(case.kind, config), espnet.names_of
    else:
        name, params = asteroid.CLASSES[case.kind][0], asteroid.params_of(case.kind, case.config)
        names_of = asteroid.names_of
    ours = build_model(name, params, case.sample_rate, "separate").eval()
    if theirs is not None:
        names = names_of(name, complete(name, params))
        ours.load_state_dict(from_published(theirs.state_dict(), names, ours.state_dict(), case.kind))
    return ours


def forward(network: nn.Module, separate: Separate, mixture: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            separate(mixture)

    return run


def training_step(network: nn.Module, separate: Separate, mixture: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)

    def run() -> None:
        optimizer.zero_grad()
        separate(mixture).square().mean().backward()
        optimizer.step()

    return run


def take_turns(runs: dict[str, Callable[[], None]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for number in range(rounds + 1):  # the first warms up
        for side, run in runs.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            begin = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[side].append(clock() - begin)
    return seconds


if __name__ == "__main__":
    main()
