"""The verbs prepare and validate, as they are called."""

from pathlib import Path

import numpy as np
import pytest

from tse_lib import audio
from tse_lib.bin import prepare, validate
from tse_lib.bin.main import main
from tse_lib.manifest import StemSet, Track, read_data_dir, read_table, write_stems
from tse_lib.rng import rng


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    """`corpus/<speaker>/<utterance>.wav`: 4 speakers with 2 utterances, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for speaker in ("ann", "bob", "cho", "dee"):
        for utt in ("1", "2"):
            wave = 0.1 * rng(0, speaker, utt).standard_normal(9600).astype(np.float32)
            audio.write(Path("corpus", speaker, f"{utt}.wav"), wave, 8000)
    return Path("corpus")


@pytest.fixture
def data(corpus) -> Path:
    """`data/{train,dev,test}` of it."""
    prepare.main(["folder", "--root", "corpus", "--nj", "1"])
    return Path("data")


# ------------------------------------------------------------------------------------------------------------ prepare


def test_prepare_writes_the_sets_and_prints_a_summary(corpus, capsys):
    prepare.main("folder --root corpus --prefix x_ --split 0.5 0.25 0.25 --seed 3 --nj 1".split())
    assert capsys.readouterr().out.splitlines() == [
        "set           speakers  utterances   hours",
        "data/x_train         2           4    0.00",
        "data/x_dev           1           2    0.00",
        "data/x_test          1           2    0.00",
    ]
    validate.main(["data/x_train", "data/x_dev", "data/x_test"])


def test_prepare_passes_every_option_on(corpus):
    Path("meta.csv").write_text(
        "path,speaker,split,kind\n"
        + "".join(f"{speaker}/{utt}.wav,{speaker},dev,{speaker[0]}x\n" for speaker in ("ann", "bob") for utt in (1, 2))
    )
    Path("cuts.csv").write_text("path,speaker,split,role,start,end\nann/1.wav,ann,dev,enroll,0,5000\n")
    Path("corpus/ann/2.wav").write_bytes(b"")
    arguments = "folder --root corpus --out out --metadata meta.csv --cuts cuts.csv --where kind=?x --where path=*.wav"
    with pytest.raises(ValueError, match="1 files cannot be used"):
        prepare.main([*arguments.split(), "--nj", "1"])
    prepare.main([*arguments.split(), "--nj", "2", "--skip_bad", "--min_s", "0.1"])
    assert [utt.utt_id for utt in read_data_dir("out/dev")] == ["bob-1", "bob-2"]
    prepare.main([*arguments.split(), *"--skip_bad --ignore_split --split 0 0 1 --prefix new_ --nj 1".split()])
    assert not Path("out/new_dev").exists()
    assert [utt.utt_id for utt in read_data_dir("out/new_test")] == ["bob-1", "bob-2"]


def test_prepare_makes_the_mini_corpus(tmp_path, monkeypatch, capsys):
    pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed (pip install -e .[mini])")
    monkeypatch.chdir(tmp_path)
    prepare.main("mini --sample_rate 8000 --seed 1 --num_talkers 3 3 3 --num_utts 2 --num_clips 1 1 1 --nj 1".split())
    names = [f"data/{kind}{name}" for name in ("train", "dev", "test") for kind in ("", "noise_")]
    validate.main(names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:7]] == names


def test_faults_of_the_user_are_one_line_and_an_exit_code(corpus, capsys):
    Path("corpus/ann/1.wav").write_bytes(b"")
    assert main(["prepare", "folder", "--root", "corpus", "--nj", "1"]) == 4
    assert "tse prepare: error: 1 files cannot be used" in capsys.readouterr().err
    assert main(["prepare", "folder", "--root", "nowhere"]) == 3
    assert capsys.readouterr().err == "tse prepare: error: --root nowhere: no such folder\n"


# ----------------------------------------------------------------------------------------------------------- validate


def edit(path: Path, change: dict[str, str]) -> None:
    """Replace values of a table; "" removes the line."""
    table = {**read_table(path), **change}
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items() if value))


def test_validate_accepts_and_describes_good_sets(data, capsys):
    validate.main(["data/train", "data/dev", "data/test", "--nj", "2"])
    assert capsys.readouterr().out.splitlines() == [
        "data/train: ok, 2 speakers, 4 utterances",
        "data/dev: ok, 1 speakers, 2 utterances",
        "data/test: ok, 1 speakers, 2 utterances",
    ]


def test_a_set_of_two_kinds_is_told_by_the_last_and_checked_as_both(data, capsys):
    path = str(Path("corpus", "ann", "1.wav"))
    write_stems(data / "dev", StemSet(tracks=(Track("t", 8000, 9600, {"kick": (path,)}, {"kick": "1" * 12}),)))
    assert prepare.summary([data / "dev"]).splitlines()[1].split()[1:3] == ["-", "1"]
    validate.main(["data/dev"])
    assert "0 one-shots, 1 tracks, 1 speakers, 2 utterances" in capsys.readouterr().out
    Path(data / "dev" / "utt2spk").unlink()
    with pytest.raises(ValueError, match="spk2utt is there and utt2spk is not"):
        validate.main(["data/dev"])
    prepare.main(["folder", "--root", "corpus", "--nj", "1"])
    assert prepare.summary([data / "dev"]).splitlines()[1].split()[1:3] == ["1", "2"]


def test_validate_reports_speakers_that_two_sets_share(data, capsys):
    validate.main(["data/train", "data/dev"])
    assert "share" not in capsys.readouterr().out
    prepare.main("folder --root corpus --prefix all_ --split 1 0 0 --nj 1".split())
    validate.main(["data/train", "data/all_train"])
    assert "warning: data/train and data/all_train share 2 speakers" in capsys.readouterr().out


def test_validate_lists_all_faults_of_all_sets_at_once(data):
    first, second, third, _ = (utt.utt_id for utt in read_data_dir("data/train"))
    edit(data / "train" / "utt2fs", {first: "16000"})
    edit(data / "train" / "utt2num_samples", {second: "12x"})
    edit(data / "train" / "utt2spk", {third: "eve"})
    edit(data / "dev" / "wav.scp", {next(iter(read_table(data / "dev" / "wav.scp"))): "gone.wav"})
    with pytest.raises(ValueError) as caught:
        validate.main(["data/train", "data/dev", "data/test", "data/none"])
    for fault in (
        f"data/train/utt2fs: '{first}': 16000, the file has 8000 Hz",
        f"data/train/utt2num_samples: '{second}': a positive integer expected, got '12x'",
        f"data/train/utt2spk: '{third}' is of speaker 'eve', which spk2utt does not say",
        "data/dev/wav.scp: '",
        "gone.wav: no such audio file",
        "data/none: no data set here",
    ):
        assert fault in str(caught.value)
    assert "data/test" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("utt2fs", "cho-2 8000\ncho-1 8000\n", "utt2fs:2: 'cho-1' is not in bytewise order"),
        ("utt2fs", "cho-1 8000\ncho-1 8000\ncho-2 8000\n", "utt2fs:2: duplicate id 'cho-1'"),
        ("utt2fs", "cho-1 8000\ncho-2\n", "utt2fs:2: '<key> <value>' expected, got 'cho-2'"),
        ("utt2fs", "cho-1 8000\n", "utt2fs: lacks cho-2"),
        ("utt2fs", None, "utt2fs: missing; prepare the set again"),
        ("utt2spk", None, "spk2utt is there and utt2spk is not"),
        ("spk2utt", "cho cho-1\n", "utt2spk: 'cho-2' is of speaker 'cho', which spk2utt does not say"),
        ("spk2utt", "cho cho-1 cho-2 cho-3\n", "spk2utt: 'cho-3' is of speaker 'cho', which utt2spk does not say"),
        ("spk2gender", "cho x\n", "spk2gender: 'cho' is 'x'; f or m"),
        ("spk2gender", "eve f\n", "spk2gender: 'eve' has no utterance in this set"),
        ("utt2num_samples", "cho-1 9599\ncho-2 9600\n", "utt2num_samples: 'cho-1': 9599, the file has 9600 samples"),
        ("utt2activity", "cho-1 111\ncho-2 111111111111\n", "utt2activity: 'cho-1': 12 times 0 or 1 expected, got 3"),
        ("utt2activity", "cho-1 11111111111x\ncho-2 111111111111\n", "utt2activity: 'cho-1': 12 times 0 or 1"),
        ("wav.scp", "cho-1 cat a.wav |\ncho-2 corpus/cho/2.wav\n", "'cat a.wav |' is a shell pipe"),
        ("segments", "cho-1 cho-1 0 1.2\ncho-2 cho-3 0 1.2\n", "'cho-2' names recording 'cho-3', which wav.scp lacks"),
        ("segments", "cho-1 cho-1 0\ncho-2 cho-2 0 1.2\n", "'cho-1': '<recording> <start> <end>' expected"),
        ("segments", "cho-1 cho-1 1 1\ncho-2 cho-2 0 1.2\n", "'cho-1': from 1 to 1 s is no stretch"),
        ("segments", "cho-1 cho-1 0 1\ncho-2 cho-2 0 1.2\n", "'cho-1': 9600, its segment lasts 1.000 s"),
        ("segments", "cho-1 cho-1 1 2.2\ncho-2 cho-2 0 1.2\n", "'cho-1' ends after its file, which has 9600 samples"),
    ],
)
def test_validate_names_each_fault(corpus, table, text, message):
    for speaker in ("ann", "bob", "dee"):
        for path in (corpus / speaker).iterdir():
            path.unlink()
    prepare.main("folder --root corpus --split 1 0 0 --nj 1".split())
    path = Path("data/train") / table
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    faults, _, _ = validate.check_set(Path("data/train"))
    assert [fault for fault in faults if message in fault], faults


def test_validate_names_bytes_that_are_no_text(data):
    (data / "train" / "utt2spk").write_bytes(b"\xff\xfe a\n")
    assert any("utt2spk:1: not UTF-8" in fault for fault in validate.check_set(data / "train")[0])


def test_validate_ends_a_long_list_with_a_count(data):
    for path in Path("corpus").glob("*/*.wav"):
        path.unlink()
    table = {f"u{number:02d}": "gone.wav" for number in range(30)}
    (data / "train" / "wav.scp").write_text("".join(f"{key} {value}\n" for key, value in table.items()))
    with pytest.raises(ValueError, match=r"data/train: … and \d+ more"):
        validate.main(["data/train"])
