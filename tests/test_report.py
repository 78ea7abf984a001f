"""The report page: its parts, and the whole of it in a browser."""

import html.parser
import json
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from scored_set import make_set, write_logs

from tse_lib.bin import results as results_verb
from tse_lib.bin import score as score_verb
from tse_lib.evaluation import charts, report
from tse_lib.evaluation.results import read_jsonl

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make_report(folder: Path, logs: bool = True, **options) -> Path:
    """Mixtures, estimates, scores, results: the page."""
    data, exp = folder / "data" / "test", folder / "exp" / "net"
    make_set(data, exp / "test" / "wav", **options)
    score_verb.main(
        ["--data", str(data), "--est", str(exp / "test" / "wav"), "--out", str(exp / "test" / "scores.part")]
    )
    if logs:
        write_logs(exp)
    conf = folder / "conf.yaml"
    conf.write_text("seed: 7\n")
    results_verb.main([
        "--conf", str(conf), "--exp", str(exp), "--sets", "test", "--command", "./run.sh <all> & more",
        "--data", str(folder / "data"), "--results", str(folder / "RESULTS.md"),
    ])  # fmt: skip
    return exp / "report" / "index.html"


def words(page: Path) -> str:
    """The page without what is embedded: among millions of random letters every short word occurs."""
    return re.sub(r"(data:[a-z/]+;base64,)[A-Za-z0-9+/=]+", r"\1", page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_page(tmp_path_factory) -> Path:
    """9 present targets and 3 absent ones; one is confused, one a false accept."""
    folder = tmp_path_factory.mktemp("recipe")
    return make_report(folder, num_mixtures=12, absent=(2, 5, 9), confused=(4,), name="é<b>")


class Page(html.parser.HTMLParser):
    """Counts tags, checks that they close in order, and collects what is fetched."""

    VOID = {"meta", "link", "img", "line", "rect", "circle", "path", "polyline", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.sources: list[str] = []
        self.unlabelled: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [values[name] for name in ("src", "href") if values.get(name)]
        if tag in ("img", "audio") and not (values.get("alt") or values.get("aria-label")):
            self.unlabelled.append(tag)
        if tag not in self.VOID or not self.get_starttag_text().endswith("/>") and tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_is_whole_and_fetches_nothing(full_page):
    text = words(full_page)
    page = Page(full_page.read_text(encoding="utf-8"))
    assert "script" not in page.counts and page.unlabelled == []
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert "http" not in text and "url(" not in text and "@import" not in text
    # 3 best, 3 median, 3 worst with four signals each, 2 absent with three
    assert page.counts["img"] == page.counts["audio"] == 9 * 4 + 2 * 3
    assert page.counts["svg"] >= 42 + 7
    for piece in (
        "./run.sh &lt;all&gt; &amp; more", "seed 7", "conf.yaml", "é&lt;b&gt;004", "confused", "false accept",
        "SI-SDR improvement", "Learning rate", "By condition", "Worst", "Median", "Best", "Target absent",
    ):  # fmt: skip
        assert piece in text, piece
    assert full_page.stat().st_size < 12e6
    assert [file.name for file in full_page.parent.iterdir()] == ["index.html"]


def test_the_size_is_bounded_however_long_the_audio(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "AUDIO_BYTES", 1e5)
    path = make_report(tmp_path, num_mixtures=3, seconds=4)
    text = path.read_text(encoding="utf-8")
    assert text.count("data:audio/wav") == 3 * 4
    assert sum(len(source) for source in Page(text).sources if source.startswith("data:audio")) < 1.4 * 1e5
    assert "Signals are cut to 0.5 s" in text


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ({"num_mixtures": 1}, ["n = 1"], ["Target absent", "False accepts"]),
        ({"num_mixtures": 2, "absent": (0, 1)}, ["Target absent", "False accepts"], ["Quality", "Median", "Before"]),
        ({"num_mixtures": 3, "seconds": 0.2}, ["Without a value", "Buffer", "too short for STOI"], ["ESTOI</h3>"]),
        ({"num_mixtures": 2, "logs": False}, ["no log/train.jsonl and no log/valid.jsonl"], ["Learning rate"]),
        ({"num_mixtures": 2, "noisy": False}, ["no noise"], ["SNR 10"]),
    ],
)
def test_sets_with_little_in_them(tmp_path, options, there, not_there):
    text = words(make_report(tmp_path, **options))
    Page(text)
    assert [piece for piece in there if piece not in text] == []
    assert [piece for piece in not_there if piece in text] == []


def test_silent_outputs_make_a_page(tmp_path, monkeypatch):
    from tse_lib import audio

    monkeypatch.setattr(audio, "write", _silent_estimates(audio.write))
    text = make_report(tmp_path, num_mixtures=3, absent=(0,)).read_text(encoding="utf-8")
    Page(text)
    assert "silent estimate" in text


def _silent_estimates(write):
    return lambda path, wave, rate: write(path, wave * (Path(path).suffix == ".flac"), rate)


def test_without_estimates_the_page_says_so(tmp_path):
    path = make_report(tmp_path, num_mixtures=2)
    shutil.rmtree(tmp_path / "exp/net/test/wav")
    report.write_report(tmp_path / "exp/net", ["test"], tmp_path / "data")
    assert "No examples: there is no audio" in path.read_text(encoding="utf-8")


def test_a_loss_that_was_never_finite_has_no_chart(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "train.jsonl").write_text('{"step": 1, "loss": NaN, "lr": 0.1}\n')
    section = report.training_section(tmp_path)
    assert "Learning rate" in section and "Loss" not in section


def test_another_process_that_writes_the_page_is_left_alone(tmp_path):
    path = make_report(tmp_path, num_mixtures=1)
    writing = path.with_name(".partial-index.html")
    writing.touch()
    report.write_report(path.parents[1], ["test"], tmp_path / "data")
    assert writing.exists()


def test_an_example_whose_mixture_has_no_pesq(full_page):
    """As of a long one, in which the C code finds more utterances than it can hold."""
    lines = read_jsonl(full_page.parents[1] / "test" / "scores.jsonl")
    line = next(line for line in lines if line["target_present"])
    assert any("PESQ" in chip for chip in report.chips(line | {"pesq_nb": 2.0, "pesq_nb_mixture": 1.0}))
    assert not any("PESQ" in chip for chip in report.chips(line | {"pesq_nb": 2.0, "pesq_nb_mixture": None}))


def test_examples_are_chosen_once_each():
    present = [{"mix_id": f"m{index:02d}", "si_sdri": float(index)} for index in range(20)]
    absent = [{"mix_id": f"a{index}", "ta_attenuation_db": float(index)} for index in range(5)]
    chosen = report.choose_examples(present, absent)
    ids = {title: [line["mix_id"] for line in lines] for title, lines in chosen.items()}
    assert ids == {
        "Best": ["m19", "m18", "m17"], "Median": ["m08", "m09", "m10"], "Worst": ["m00", "m01", "m02"],
        "Target absent": ["a0", "a4"],
    }  # fmt: skip
    for count in range(20):
        taken = [line["mix_id"] for lines in report.choose_examples(present[:count], []).values() for line in lines]
        assert len(taken) == len(set(taken)) == (min(9, count // 3 * 3) if count > 2 else count)


# ---------------------------------------------------------------------------------------------------------- the charts


def test_ticks_are_round_and_inside():
    for lowest, highest in ((0, 1), (-7.3, 22.1), (0, 4e-4), (0, 20000), (3, 3)):
        scale = charts.Scale(lowest, highest, 0, 100)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 10 and scale.lowest <= min(ticks) and max(ticks) <= scale.highest
    assert charts.Scale(0, 10, 100, 0)(2.5) == 75
    values = (0, 2.5, -15, 1e-3, 20000, 1.5e6)
    assert [charts._short(value) for value in values] == ["0", "2.5", "-15", "1e-3", "20k", "1.5M"]


def test_a_histogram_counts_every_value():
    svg = charts.histogram({"one": [0.0, 0.1, 5.0, 9.99], "two": [3.0]}, "dB", {"limit": 4.0}, "what it shows")
    assert sum(int(text.split(" from ")[0]) for text in svg.split("<title>one: ")[1:]) == 4
    assert 'aria-label="what it shows"' in svg and "limit" in svg


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [-50.0, 100.0]])
def test_charts_of_little_or_equal_values(values):
    for svg in (
        charts.histogram({"a": values}, "x", {"mark": values[0]}, "d"),
        charts.scatter(values, values, [True] * len(values), ["id"] * len(values), ("x", "y"), "d"),
        charts.boxes({"a": values}, "x", "d"),
        charts.curve([(float(step), value) for step, value in enumerate(values)], "x", "d"),
    ):
        Page(f"<div>{svg}</div>")
        assert "nan" not in svg and "inf" not in svg


def test_png_is_read_back_as_it_was():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = charts.png(pixels, charts.COLOURS)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (4, 3, 8, 3, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(3, 5)
    assert (rows[:, 0] == 0).all() and (rows[:, 1:] == pixels).all()
    assert len(chunks[b"PLTE"]) == 768


def test_a_tone_is_a_line_in_the_spectrogram():
    for rate in (8000, 16000):
        tone = np.sin(2 * np.pi * rate / 8 * np.arange(rate) / rate)  # a quarter up to the highest frequency
        power = charts.spectrogram(tone, rate)
        assert power.shape[0] == 128 and power.shape[1] <= charts.SPECTROGRAM_COLUMNS
        assert power.mean(1).argmax() == pytest.approx(127 - 32, abs=1)
    assert charts.spectrogram(np.zeros(10), 8000).shape[1] >= 1


def test_the_colours_grow_lighter():
    lightness = charts.COLOURS @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all() and lightness[-1] > 240 and lightness[0] < 10


# --------------------------------------------------------------------------------------------------------- the browser

SELF_CHECK = """<script>
window.addEventListener("load", async () => {
  const media = [...document.querySelectorAll("audio")];
  await Promise.all(media.map(item => new Promise(done => {
    if (item.readyState > 0 || item.error) return done();
    item.onloadedmetadata = item.onerror = done; item.load(); })));
  const found = {
    images: document.images.length, audio: media.length, width: document.documentElement.scrollWidth - innerWidth,
    bad_images: [...document.images].filter(item => !(item.naturalWidth > 0)).length,
    bad_audio: media.filter(item => !(item.duration > 0)).length };
  const output = document.createElement("pre");
  output.textContent = "FOUND" + JSON.stringify(found) + "DNUOF";
  document.body.append(output);
});
</script></body>"""


def in_browser(page: Path, folder: Path, width: int = 390) -> tuple[dict, str]:
    """What the page finds out about itself in headless Chromium, and what is said on the console."""
    copy = folder / "checked.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", SELF_CHECK), encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--enable-logging=stderr",
            "--virtual-time-budget=20000", "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "FOUND" in done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout.rpartition("FOUND")[2].partition("DNUOF")[0])
    return found, "\n".join(entry for entry in done.stderr.splitlines() if "CONSOLE" in entry)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_page_in_a_browser(full_page, tmp_path):
    found, console = in_browser(full_page, tmp_path)
    assert console == ""
    assert found.pop("width") <= 0  # nothing stands out on a phone
    assert found == {"images": 42, "audio": 42, "bad_images": 0, "bad_audio": 0}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with")
def test_the_browser_sees_broken_media(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<body><img src="data:image/png;base64,AAAA"><audio src="data:audio/wav;base64,AAAA"></audio>'
        "<script>console.error('seen')</script></body>"
    )
    found, console = in_browser(page, tmp_path)
    assert (found["bad_images"], found["bad_audio"]) == (1, 1) and "seen" in console
