"""`tse models`: what it says of each preset is so."""

import json
import os

import pytest

from tests import tiny
from tse_lib.bin import models
from tse_lib.bin.main import main
from tse_lib.hub.public import PUBLIC
from tse_lib.models import MODELS, build_model
from tse_lib.models.presets import PRESETS, count_macs

PARAMETERS = {  # of the published networks, and of v8, which is ours
    "hifi_tse_v1": 7_805_420,
    "hifi_tse_v2": 11_785_196,
    "spex_plus": 11_138_734,
    "td_speakerbeam": 6_704_194,
    "x_tf_gridnet": 7_787_374,
    "x_tf_gridnet_large": 12_676_424,
    "usef_tf_gridnet": 15_641_885,
    "usef_sepformer": 29_168_385,
    "usef_tse_mamba_v7": 27_558_531,
    "usef_tse_mamba_v8_s": 23_624_064,
    "usef_tse_mamba_v8": 36_475_840,
    "usef_tse_mamba_v8_film": 34_605_376,
    "usef_tse_mamba_v8_causal": 36_475_840,
    "usef_tse_mamba_v8_l": 62_180_864,
    "conv_tasnet": 5_050_545,
    "conv_tasnet_causal": 5_050_545,
    "conv_tasnet_speechbrain": 6_582_832,
    "dprnn": 2_608_065,
    "dprnn_asteroid": 3_651_073,
    "dprnn_asteroid_ks16": 3_652_865,
    "dprnn_speechbrain": 14_617_089,
    "dptnet": 2_801_025,
    "dptnet_asteroid": 8_529_025,
    "dptnet_asteroid_r2": 2_855_553,
    "sepformer": 25_679_361,
    "sepformer_3": 25_745_153,
    "sepmamba_s": 7_253_826,
    "sepmamba_s_causal": 7_253_826,
    "sepmamba_m": 22_249_090,
    "sepmamba_m_causal": 22_249_090,
    "spmamba": 6_094_498,
    "spmamba_16k": 6_141_826,
    "tf_gridnet": 14_521_042,
    "tf_gridnet_v1_espnet": 8_175_874,
    "tf_gridnet_v2_espnet": 7_034_194,
    "tf_gridnet_v3_espnet": 8_043_202,
    "mossformer2": 55_735_394,
}
KEYS = ["name", "preset", "task", "paper", "params", "gmac_per_s", "sample_rate", "causal", "weights"]


@pytest.fixture(scope="module")
def rows():
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["models", "--json"]) == 0
    return {row["preset"]: row for row in json.loads(out.getvalue())}


def test_keys_and_kinds(rows):
    assert rows.keys() == PRESETS.keys()
    for row in rows.values():
        assert list(row) == KEYS
        assert row["name"] in MODELS and row["task"] in ("extract", "separate") and row["paper"]
        assert (
            isinstance(row["params"], int) and isinstance(row["causal"], bool) and isinstance(row["sample_rate"], int)
        )


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameters_are_those_of_the_published_network(rows, preset):
    assert rows[preset]["params"] == PARAMETERS[preset]


def test_cost_is_plausible(rows):
    """v2 has wider LSTMs and twice the injections; 100 frames of 53 bands pass each of its weights about once."""
    v1, v2 = rows["hifi_tse_v1"], rows["hifi_tse_v2"]
    assert v1["gmac_per_s"] < v2["gmac_per_s"]
    assert 0.3 < v2["gmac_per_s"] * 1e9 / (v2["params"] * 101 * 53) < 1.5


GMAC_PER_S = {  # published with the networks, or counted by torch's FLOP counter and for LSTMs by hand
    "x_tf_gridnet": 58.7,
    "x_tf_gridnet_large": 97.9,
    "usef_tf_gridnet": 124.5,
    "tf_gridnet": 231.1,
    "tf_gridnet_v1_espnet": 63.8,
    "mossformer2": 84.2,
}


@pytest.mark.parametrize("preset", GMAC_PER_S)
def test_cost_is_what_others_count(rows, preset):
    assert rows[preset]["gmac_per_s"] == pytest.approx(GMAC_PER_S[preset], rel=0.03)


def test_macs_of_a_linear_map_and_an_lstm_are_counted_by_hand():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(5, 3, batch_first=True, bidirectional=True)
            self.linear = torch.nn.Linear(6, 4)

        def forward(self, x):
            return self.linear(self.lstm(x)[0])

    net = Net()
    frames = 2 * 7
    assert count_macs(net, lambda: net(torch.zeros(2, 7, 5))) == frames * (2 * 4 * 3 * (5 + 3) + 6 * 4)
    assert not net.lstm._forward_hooks  # nothing stays behind


def test_macs_of_a_mamba_are_counted_by_hand():
    import torch

    from tse_lib.nn.mamba import Mamba

    mixer = Mamba(32)  # 64 features inside, 16 states, steps of rank 2, convolutions over 4 frames
    maps = 32 * 2 * 64 + 64 * (2 + 16 + 16) + 2 * 64 + 64 * 32
    convolution, scan = (7 + 3) * 64 * 4, 7 * 64 * 16 * 2  # the convolution goes on over its padding
    assert count_macs(mixer, lambda: mixer(torch.zeros(2, 7, 32))) == 2 * (7 * maps + convolution + scan)


def test_the_table_for_people(capsys):
    assert main(["models", "--only", "hifi_tse_v2", "sepformer"]) == 0
    extraction, separation = capsys.readouterr().out.splitlines()
    assert "hifi_tse_v2" in extraction and "11,785,196" in extraction and "weights" not in extraction
    assert separation.endswith("sepformer_whamr (?)") and "RTF" not in separation


def test_public_weights_have_their_licence(rows):
    assert rows["mossformer2_16k"]["weights"] == {"mossformer2_ss_16k": "Apache-2.0"}
    assert "mossformer2_whamr" not in rows["mossformer2"]["weights"]  # they do not mask, the preset does
    assert rows["sepformer_3"]["weights"] == {"sepformer_wsj03mix": "?", "sepformer_libri3mix": "?"}
    assert rows["conv_tasnet_causal"]["weights"] == {}


@pytest.mark.parametrize("public", [name for name, public in PUBLIC.items() if public.preset])
def test_public_weights_are_of_a_preset_at_its_rate(public):
    assert PRESETS[PUBLIC[public].preset]["sample_rate"] == PUBLIC[public].sample_rate


def test_some_are_measured_in_their_own_process(capsys, monkeypatch):
    monkeypatch.setattr(models, "MEASURED_S", 0.25)
    assert main(["models", "--only", "conv_tasnet", "--measure", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == [*KEYS, "rtf", "peak_mib"] and row["preset"] == "conv_tasnet"
    assert 0 < row["rtf"] < 100
    assert row["params"] * 4 / 2**20 < row["peak_mib"] < 500  # the weights and more, but not torch itself


def die(preset, seconds):
    os._exit(9)  # as one that takes too much memory is killed


def test_a_process_that_is_killed_is_told_and_the_rest_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(models, "measure", die)
    assert main(["models", "--only", "conv_tasnet", "--measure"]) == 0
    printed = capsys.readouterr()
    assert "conv_tasnet: its process was killed" in printed.err and "failed" in printed.out


def test_a_small_network_costs_less():
    import torch

    small = build_model("hifi_tse", tiny.MODEL, tiny.RATE).eval()
    wave = torch.zeros(1, 1, tiny.RATE)
    one = count_macs(small, lambda: small(wave, small.encode(wave)))
    two = count_macs(small, lambda: small(wave.repeat(2, 1, 1), small.encode(wave.repeat(2, 1, 1))))
    assert two == 2 * one
