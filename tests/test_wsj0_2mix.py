"""WSJ0-2mix: the published mixtures are read as they lie on the disk, with the published enrolments."""

import numpy as np
import pytest
import soundfile
import torch

from tests import fake_wsj0_2mix as fake
from tse_lib.bin.train import refuse_dev_in_train
from tse_lib.corpora import wsj0_2mix
from tse_lib.data.layers import read_ready
from tse_lib.evaluation.score import conditions
from tse_lib.manifest import read_data_dir, read_mixtures
from tse_lib.simulation.sample import read_corpus


def prepare(top, task, **options):
    root, mixtures, lists = fake.make(top)
    enrolls = {"enrolls": lists} if options.pop("listed", False) else {}
    return wsj0_2mix.prepare(root, mixtures, task, top / "data", nj=1, **enrolls, **options)


def faults_of(top, task, enrolls=None):
    with pytest.raises(ValueError) as told:
        wsj0_2mix.prepare(top / "wsj0", top / "2speakers/wav8k/min", task, top / "data", enrolls, nj=1)
    return str(told.value)


def test_what_macos_keeps_beside_a_mixture_is_none(tmp_path):
    root, mixtures, _ = fake.make(tmp_path)
    for kind in wsj0_2mix.KINDS:
        (mixtures / "cv" / kind / f"._{fake.MIXES['cv'][0]}.wav").write_bytes(b"of macOS")
    (root / "._spkrinfo.txt").write_bytes(b"\0 x\n011 ? of macOS\n")
    wsj0_2mix.prepare(root, mixtures, "separate", tmp_path / "data", nj=1)
    assert len(read_mixtures(tmp_path / "data" / "dev" / "mixtures.jsonl")) == len(fake.MIXES["cv"])


def test_separation(tmp_path, capsys):
    assert prepare(tmp_path, "separate") == [tmp_path / "data" / "train"]
    assert "cv: 2 mixtures; WSJ0-2mix has 5000" in capsys.readouterr().out
    trained = {utt.utt_id for utt in read_data_dir(tmp_path / "data" / "train")}
    assert trained == {f"{spk}-c020{n}" for spk in ("011", "01a", "022") for n in fake.NUMBERS} - {
        "011-c0201", "01a-c0201", "01a-c0202", "022-c0201"
    }  # fmt: skip
    for name, subset in (("dev", "cv"), ("test", "tt")):
        mixtures = read_mixtures(tmp_path / "data" / name / "mixtures.jsonl")
        assert tuple(mixture.mix_id for mixture in mixtures) == fake.MIXES[subset]
        for mixture in mixtures:
            rendered = read_ready(mixture)
            for wave, kind in ((rendered.mixture, "mix"), (rendered.targets[0], "s1"), (rendered.targets[1], "s2")):
                path = tmp_path / "2speakers/wav8k/min" / subset / kind / f"{mixture.mix_id}.wav"
                np.testing.assert_array_equal(wave.numpy(), soundfile.read(path, dtype="float32")[0])


def test_extraction_with_the_published_enrolments(tmp_path):
    prepare(tmp_path, "extract", listed=True)
    mixtures = read_mixtures(tmp_path / "data" / "test" / "mixtures.jsonl")
    names = [name for name in fake.MIXES["tt"] for _ in range(2)]
    assert [mixture.mix_id for mixture in mixtures] == [
        f"{name}_{enroll}" for name, enroll in zip(names, fake.AUX["tt"], strict=True)
    ]
    for mixture, enroll, source in zip(mixtures, fake.AUX["tt"], ("s1", "s2") * 2, strict=True):
        rendered = read_ready(mixture)
        (aux,) = rendered.enrolls
        folder = tmp_path / "2speakers/wav8k/min/tt"
        name = mixture.mix_id.rpartition("_")[0]
        target, _ = soundfile.read(folder / source / f"{name}.wav", dtype="float32")
        np.testing.assert_array_equal(rendered.targets.numpy(), target[None])
        torch.testing.assert_close(sum(rendered.images), rendered.mixture, rtol=0, atol=2 / 2**15)
        assert mixture.target_spk == enroll[:3] == mixture.talkers[0].spk_id != mixture.talkers[1].spk_id
        assert len(aux) == 8800  # 1.1 s at the mixture's rate
        torch.testing.assert_close(aux.square().mean(), rendered.mixture.square().mean(), rtol=1e-3, atol=0)
    assert [mixture.talkers[1].level_db for mixture in mixtures] == pytest.approx([0.6, -0.6, 4.5, -4.5])
    said = conditions(mixtures[3], {})
    assert "variant" not in said and said["sir_db"] == pytest.approx([-4.5]) and not said["reverberant"]


def test_drawn_enrolments_are_other_utterances_that_are_not_trained_on(tmp_path, capsys):
    prepare(tmp_path, "extract")
    assert "tt: enrolments are drawn; scores cannot be compared" in capsys.readouterr().out
    trained = {utt.utt_id for utt in read_data_dir(tmp_path / "data" / "train")}
    for name in ("dev", "test"):
        for mixture in read_mixtures(tmp_path / "data" / name / "mixtures.jsonl"):
            (enroll,) = mixture.enrolls
            assert enroll.spk_id == mixture.talkers[0].spk_id
            assert enroll.utt_id not in {talker.utt_id for talker in mixture.talkers}
            if enroll.spk_id == "01a":  # the one with two utterances in cv
                assert enroll.utt_id not in trained


def test_speakers_of_cv_may_be_trained_on_but_not_their_mixed_utterances(tmp_path):
    prepare(tmp_path, "extract", listed=True)
    refuse_dev_in_train(read_corpus(tmp_path / "data" / "train"), tmp_path / "data" / "dev")
    table = tmp_path / "data" / "train"
    for name in ("wav.scp", "utt2spk", "utt2num_samples", "utt2fs", "utt2activity"):
        text = (table / name).read_text()
        (table / name).write_text(text.replace("01a-c0203", "01a-c0201"))
    with pytest.raises(ValueError, match=r"dev: 1 of its utterances are trained on \(01a-c0201…\)"):
        refuse_dev_in_train(read_corpus(table), tmp_path / "data" / "dev")


def test_traps_are_told_together(tmp_path):
    _, mixtures, lists = fake.make(tmp_path)
    (mixtures / "cv" / "s2" / f"{fake.MIXES['cv'][0]}.wav").unlink()
    fake.write(mixtures / "cv" / "s1" / f"{fake.MIXES['cv'][1]}.wav", fake.wave("a", 7000), 8000)
    for kind in wsj0_2mix.KINDS:
        for name in ("050c0201_0.1_049c0201_-0.1", "one_two"):
            fake.write(mixtures / "tt" / kind / f"{name}.wav", fake.wave("a", 8000), 8000)
    with open(lists / "tt" / "aux.scp", "a") as file:
        file.write(f"{fake.MIXES['tt'][0]}_440c0201 x\n{fake.MIXES['tt'][0]}_441c0201 x\nno_mixture_441c0201 x\n")
    told = faults_of(tmp_path, "extract", lists)
    for line in (
        f"s2/{fake.MIXES['cv'][0]}.wav is missing",
        f"s1/{fake.MIXES['cv'][1]}.wav: 7000 samples at 8000 Hz, its mixture has 8000 at 8000 Hz",
        "mix/one_two.wav: <utt1>_<snr1>_<utt2>_<snr2>.wav is expected",
        "050c0201_0.1_049c0201_-0.1.wav: WSJ0 has no utterance '049c0201' in si_dt_05 or si_et_05",
        "_440c0201: '440c0201' is no other utterance of one of its talkers",  # it is mixed
        "_441c0201: '441c0201' is no other utterance of one of its talkers",  # who does not speak
        "no_mixture_441c0201: there is no mixture 'no_mixture'",
    ):
        assert line in told, line
    assert not (tmp_path / "data").exists()


def test_a_list_that_lacks_lines_is_refused(tmp_path):
    _, _, lists = fake.make(tmp_path)
    path = lists / "tt" / "aux.scp"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "tt/aux.scp: 3 lines for 2 mixtures of two talkers" in faults_of(tmp_path, "extract", lists)


def test_a_folder_without_mixtures_is_named(tmp_path):
    fake.make(tmp_path)
    with pytest.raises(FileNotFoundError, match="--mixtures is the folder with cv and tt"):
        wsj0_2mix.prepare(tmp_path / "wsj0", tmp_path / "2speakers", "separate", tmp_path / "data", nj=1)
