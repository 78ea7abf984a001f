"""tse curves: the page that compares trainings, its figures, and what it tells apart."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests import tiny
from tse_lib.bin.main import main
from tse_lib.config import read_yaml
from tse_lib.evaluation import curves
from tse_lib.evaluation.runs import read_lines, read_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = read_yaml(Path(__file__).parent.parent / "egs/mini/tse1/conf/long.yaml")


def make_run(exp: Path, steps: int = 1000, conf: dict | None = None, pace: float = 0.1, restarts=(), **more) -> Path:
    """A line every 10 steps, whose loss falls from 5 by 0.004 a step and is noisy; a validation every 200."""
    (exp / "log").mkdir(parents=True)
    (exp / "config.yaml").write_text(yaml.safe_dump(conf or LONG))
    noise = np.random.default_rng(0).normal(0, 0.5, steps // 10)
    lines = [
        {
            "step": step,
            "loss": 5 - 0.004 * step + float(noise[step // 10 - 1]),
            "lr": 1e-3,
            "seconds": pace * step,
            **more,
        }
        for step in range(10, steps + 1, 10)
    ]
    checks = [{"step": step, "si_sdri": step / 250, "best": step / 250} for step in range(200, steps + 1, 200)]
    for name, log in (("train", lines), ("valid", checks), ("restarts", restarts)):
        (exp / "log" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return exp


def make_page(folder: Path, *words: str | Path, code: int = 0) -> str:
    assert main(["curves", *map(str, words), "-o", str(folder / "page" / "curves.html")]) == code
    return (folder / "page" / "curves.html").read_text(encoding="utf-8")


def changed(**train) -> dict:
    return {**LONG, "train": {**LONG["train"], **train}}


class Page(html.parser.HTMLParser):
    """Checks that tags close in order; collects figures' titles, tables' rows and what would be fetched."""

    VOID = {"meta", "link", "input", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.figures: list[str] = []
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value != "data:,"]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "figcaption":
            self.figures.append("")
        if tag not in self.VOID:
            self.open.append(tag)
        assert tag != "script"

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "figcaption" in self.open:
            self.figures[-1] += data


def test_the_page_holds_every_curve_and_fetches_nothing(tmp_path):
    make_run(tmp_path / "a", 1000, neg_si_sdr=1.0, skipped=0.0, discriminator=0.5)
    make_run(tmp_path / "b<i>", 2000)
    page = Page(make_page(tmp_path, tmp_path / "a", tmp_path / "b<i>"))
    assert page.fetched == []
    assert page.figures == [
        "SI-SDRi on the development set (dB)", "Loss", "neg_si_sdr", "Learning rate", "Curriculum: num_talkers",
        "Curriculum: snr_db", "discriminator",
    ]  # fmt: skip


def test_the_table_of_what_came_of_them(tmp_path):
    make_run(tmp_path / "a", 1000, restarts=[{"step": 500, "exit_code": 1}])
    text = make_page(tmp_path, make_run(tmp_path / "b", 22000, pace=0.36), tmp_path / "a")
    rows = {row[0]: row[1:] for row in Page(text).rows}
    assert rows["1 b"] == ["88.00", "22000", "2.20", "22000", "2.20", "360", "245,126", "0"]
    assert rows["2 a"] == ["4.00", "1000", "0.03", "1000 of 22000", "0.03", "100", "245,126", "1"]


def test_confs_are_compared_by_key(tmp_path):
    make_run(tmp_path / "a")
    other = changed(lr=1e-4, of_tomorrow=[1, 2])
    other["loss"] = [{**term, "weight": 3.0} if term["name"] == "amplitude" else term for term in LONG["loss"]]
    text = make_page(tmp_path, tmp_path / "a", make_run(tmp_path / "b", conf=other))
    rows = Page(text).rows
    head = rows.index(["key", "1 a", "2 b"])
    place = [term["name"] for term in LONG["loss"]].index("amplitude")
    weight = str(LONG["loss"][place].get("weight", 1.0))
    assert sorted(rows[head + 1 :]) == [
        [f"loss.{place}.weight", weight, "3.0"], ["train.lr", str(LONG["train"]["lr"]), "0.0001"],
        ["train.of_tomorrow", "-", "[1,2]"],
    ]  # fmt: skip


def test_one_run_alone_and_equal_confs(tmp_path):
    make_run(tmp_path / "a")
    assert "Where the confs differ" not in make_page(tmp_path, tmp_path / "a")
    assert "The confs are the same." in make_page(tmp_path, tmp_path / "a", make_run(tmp_path / "b"))


def test_a_conf_of_another_version_has_curves_all_the_same(tmp_path):
    conf = {"train": "words", "loss": 3, "curriculum": [7]}
    page = Page(make_page(tmp_path, make_run(tmp_path / "a", conf=conf)))
    assert "Loss" in page.figures and page.rows[1][4:] == ["1000", "0.03", "100", "", "0"]


def test_a_run_without_a_line_yet(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(yaml.safe_dump(LONG))
    assert "Nothing was logged yet" in make_page(tmp_path, tmp_path / "a")
    assert Page(make_page(tmp_path, tmp_path / "a", make_run(tmp_path / "b"))).figures


def test_values_that_are_not_finite_leave_gaps(tmp_path):
    text = make_page(tmp_path, make_run(tmp_path / "a", neg_si_sdr=float("nan"), discriminator=float("inf")))
    assert "nan" not in re.sub(r"<title>.*?</title>", "", text).lower() and "discriminator" not in Page(text).figures


def test_what_is_no_run_is_told_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "log").mkdir()
    assert main(["curves", str(tmp_path / "log"), "-o", str(tmp_path / "x.html")]) == 3
    assert "no config.yaml" in capsys.readouterr().err and not (tmp_path / "x.html").exists()
    (tmp_path / "log" / "config.yaml").write_text("[1]")
    assert main(["curves", str(tmp_path / "log"), "-o", str(tmp_path / "x.html")]) == 4


# -------------------------------------------------------------------------------------------------------- the figures


def test_smoothing_is_the_mean_of_what_lies_around():
    steps = np.array([10.0, 20.0, 30.0, 40.0, 100.0])
    values = np.array([1.0, 2.0, 6.0, 4.0, 9.0])
    assert curves.smoothed(steps, values, 20).tolist() == [1.5, 3.0, 4.0, 5.0, 9.0]
    assert curves.smoothed(steps, values, 1).tolist() == values.tolist()


def lines_of(text: str, style: str) -> list[np.ndarray]:
    found = re.findall(rf'<polyline class="{style}" points="([^"]*)"', text)
    return [np.array([pair.split(",") for pair in points.split()], float) for points in found]


def test_a_short_run_is_smoothed_over_a_step_at_least(tmp_path):
    assert curves.default_window(read_runs([make_run(tmp_path / "short", 20)])) == 1
    assert curves.default_window(read_runs([make_run(tmp_path / "long", 1000)])) == 20


def test_thick_lines_are_smooth_and_thin_ones_as_logged(tmp_path):
    run = make_run(tmp_path / "a")
    text = "".join(curves.svg_files(read_runs([run]), 200)[f"loss-{axis}.svg"] for axis in ("steps", "hours"))
    (thick, in_hours), (thin, _) = lines_of(text, "curve c0 d0"), lines_of(text, "curve raw c0")
    assert np.allclose(thick[:, 1], in_hours[:, 1])
    assert np.abs(np.diff(thin[:, 1])).mean() > 5 * np.abs(np.diff(thick[:, 1])).mean()
    assert not lines_of(curves.svg_files(read_runs([run]), 1)["loss-steps.svg"], "curve raw c0")


def test_the_hours_are_those_of_the_log(tmp_path):
    """Two runs of one course: in steps they coincide, in hours the slower one ends three times as far."""
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", pace=0.3)])
    files = curves.svg_files(runs, 1)
    for axis, ratio in (("steps", 1.0), ("hours", 3.0)):
        (first,), (second,) = (lines_of(files[f"si_sdri-{axis}.svg"], f"curve c{n} d{n}") for n in (0, 1))
        left = 48  # where x is 0
        assert (second[-1, 0] - left) / (first[-1, 0] - left) == pytest.approx(ratio, abs=0.01)


def test_a_first_spike_does_not_flatten_the_rest(tmp_path):
    exp = make_run(tmp_path / "a")
    lines = read_lines(exp / "log/train.jsonl")
    lines[0]["loss"] = 1e6
    (exp / "log/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (thick,) = lines_of(curves.svg_files(read_runs([exp]), 40)["loss-steps.svg"], "curve c0 d0")
    assert np.ptp(thick[10:, 1]) > 100 and thick[:, 1].min() >= 0


def test_restarts_are_bars_where_they_happened(tmp_path):
    restarts = [{"step": 500, "exit_code": 139}, {"step": 900000, "exit_code": 1}, {"note": "no step"}]
    text = make_page(tmp_path, make_run(tmp_path / "a", restarts=restarts))
    assert "step 500: started again after exit code 139" in text and "900000" not in text
    assert "Short bars" in text and "Short bars" not in make_page(tmp_path, make_run(tmp_path / "b"))


def test_28_runs_look_different():
    assert len({curves.look(number) for number in range(28)}) == 28
    assert all(
        a != b for n in range(27) for a, b in zip(curves.look(n).split(), curves.look(n + 1).split(), strict=True)
    )


def test_labels_do_not_cover_each_other():
    places = curves.apart({0: (100.0, 50.0), 1: (100.0, 52.0), 2: (103.0, 51.0), 3: (300.0, 50.0)})
    near = [places[number][1] for number in range(3)]
    assert min(abs(a - b) for a in near for b in near if a != b) >= 11 and places[3] == (300.0, 50.0)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = read_runs(
        [make_run(tmp_path / "mini/exp/tse"), make_run(tmp_path / "libri/exp/tse"), make_run(tmp_path / "x")]
    )
    assert [run.name for run in runs] == ["mini/exp/tse", "libri/exp/tse", "x"]


def test_svg_files_stand_alone(tmp_path):
    make_run(tmp_path / "a & b"), make_run(tmp_path / "c", 2000)
    make_page(tmp_path, tmp_path / "a & b", tmp_path / "c", "--svg", tmp_path / "svg")
    files = sorted(path.name for path in (tmp_path / "svg").iterdir())
    assert "si_sdri-hours.svg" in files and "loss-steps.svg" in files and len(files) == 10
    for path in (tmp_path / "svg").iterdir():
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "a & b" in "".join(root.itertext())
        assert "var(" not in path.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
@pytest.mark.parametrize("width", [1200, 400])
def test_in_a_browser_the_switch_shows_one_axis_and_nothing_is_wider_than_the_window(tmp_path, width):
    text = make_page(tmp_path, make_run(tmp_path / "a"), make_run(tmp_path / ("b" * 60), 2000))
    script = """<script>addEventListener('load', () => {
      const seen = () => ['steps', 'hours'].map(axis => [...document.querySelectorAll('.by-' + axis)]
        .filter(box => box.getBoundingClientRect().height > 0).length);
      const before = seen(); document.querySelector('label[for=x-hours]').click();
      document.title = JSON.stringify([before, seen(), document.documentElement.scrollWidth, innerWidth]);
    })</script></body>"""
    (tmp_path / "seen.html").write_text(text.replace("</body>", script))
    words = [CHROMIUM, "--headless", "--no-sandbox", f"--window-size={width},900", "--dump-dom"]
    told = subprocess.run(
        [*words, (tmp_path / "seen.html").as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    before, after, page_width, window = json.loads(re.search(r"<title>(.*?)</title>", told.stdout)[1])
    assert before == [5, 0] and after == [0, 5] and page_width <= window


# ---------------------------------------------------------------------------------------------------- a real training


def test_the_logs_of_a_real_training_are_read(tmp_path, corpus_dir, capsys):
    """Against the trainer itself: a key that it renames would otherwise just vanish from the page."""
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(tiny.values()))
    exp = tmp_path / "exp" / "tse"
    words = [
        "--conf",
        tmp_path / "conf.yaml",
        "--exp",
        exp,
        "--data",
        corpus_dir,
        "--noise",
        "noise",
        "--device",
        "cpu",
    ]
    assert main(["train", *map(str, words)]) == 0
    page = Page(make_page(tmp_path, exp))
    titles = {
        "SI-SDRi on the development set (dB)",
        "Loss",
        "neg_si_sdr",
        "attenuation",
        "Learning rate",
        "Gradient norm",
    }
    assert titles <= set(page.figures) and page.rows[1][4] == "8" and page.rows[1][1]
    capsys.readouterr()
    assert main(["watch", str(exp), "--once"]) == 0
    out = capsys.readouterr().out
    assert "step 8 of 8, finished" in out and "learning rate" in out and "SI-SDRi" in out
