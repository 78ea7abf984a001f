"""Collect the parts of a scored set: scores.jsonl and summary.json, and RESULTS.md of all experiments of a recipe."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tse_lib.config import Section, build, read_yaml
from tse_lib.evaluation.runs import read_lines
from tse_lib.evaluation.summary import MEASURES, OVER_STEMS, OVER_VARIANTS, summarise
from tse_lib.files import replace_file
from tse_lib.manifest import Mixture, read_mixtures
from tse_lib.metrics.sdr import SILENT_TRACK_DBFS

PARTS = "scores.part"


# ------------------------------------------------------------------------------------------- scores.jsonl, summary.json


def collect(
    exp: str | Path,
    set_name: str,
    data_dir: str | Path,
    conf: str | None,
    command: str,
    network: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Merge `<exp>/<set>/scores.part/`, write `<exp>/<set>/{scores.jsonl,summary.json}` and return the summary.

    Args:
        network: what is known of it: `name`, `params`, `gmac_per_s`.

    Raises:
        FileNotFoundError, ValueError: nothing was scored, or not every mixture exactly once.
    """
    exp = Path(exp)
    mixtures = read_mixtures(Path(data_dir) / "mixtures.jsonl")
    lines = merge_parts(exp / set_name / PARTS, mixtures)
    with replace_file(exp / set_name / "scores.jsonl") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    statistics = summarise(lines)
    summary = {
        "n": statistics.pop("n"),
        "conf": conf,
        "seed": seed_of_experiment(exp, conf),
        "commit": current_commit(),
        "command": command,
        "exp": exp.name,
        "set": set_name,
        "sample_rate": mixtures[0].sample_rate,
        "reference": reference_kind(mixtures),
        "machine": machine(),
        "training": training(exp),
        "network": network,
        **statistics,
    }
    with replace_file(exp / set_name / "summary.json") as file:
        file.write(json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return summary


def merge_parts(folder: Path, mixtures: Sequence[Mixture]) -> list[dict[str, Any]]:
    """The lines of all parts in the order of the mixtures; ValueError unless each mixture is there exactly once."""
    parts = sorted(folder.glob("[1-9]*of*.jsonl"))
    if not parts:
        raise FileNotFoundError(f"{folder}: no scores here; run the score stage")
    found: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for part in parts:
        for line in read_jsonl(part):
            key = line["mix_id"], line.get("source", 1)
            if key in found:
                other = found[key][0].name
                raise ValueError(f"{part}: '{key[0]}' is scored in {other} as well; remove the stale part")
            found[key] = part, line
    wanted = [(mixture.mix_id, number) for mixture in mixtures for number in source_numbers(mixture)]
    missing = list(dict.fromkeys(mix_id for mix_id, number in wanted if (mix_id, number) not in found))
    if missing:
        count = f"{len(missing)} of {len(mixtures)} mixtures"
        raise ValueError(f"{folder}: {count} are not scored, as '{missing[0]}'; score again")
    if len(found) > len(wanted):
        odd = sorted(set(found) - set(wanted))[0][0]
        raise ValueError(f"{folder}: '{odd}' is no mixture of this set; the list has changed, score again")
    return [found[key][1] for key in wanted]


def source_numbers(mixture: Mixture) -> range:
    """Of a mixture its lines of scores: one of an extraction, one a talker or stem of a separation."""
    return range(1, 2 if mixture.enrolls else len(mixture.source_names) + 1)


def reference_kind(mixtures: Sequence[Mixture]) -> str:
    """What estimates are compared with: "dry" speech, or what the mixtures say of talkers heard in a room."""
    if mixtures[0].stems:
        return "stems"
    present = [mixture for mixture in mixtures if mixture.target_present]
    kinds = {mixture.target if source.rir else "dry" for mixture in present for source in mixture.targets}
    if len(kinds) > 1:
        return f"partly {'reverberant' if 'reverberant' in kinds else 'early'}"
    return kinds.pop() if kinds else "none"


def seed_of_experiment(exp: Path, conf: str | None) -> int | None:
    """From the resolved configuration that training has left, else from the conf; None for systems without one."""
    path = exp / "config.yaml" if (exp / "config.yaml").exists() else conf
    values = read_yaml(path) if path else None
    return values.get("seed") if isinstance(values, dict) else None


def current_commit() -> str:
    """The commit of the working folder, "unknown" without git, with "-dirty" after changes to tracked files.

    RESULTS.md does not count: it is what is being made.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top,glob)**/RESULTS.md")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """Processor and cores of the machine that this runs on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count()}


def training(exp: Path) -> dict[str, Any] | None:
    """Steps and seconds of training and the processor's seconds a step, from its log; None when there is no log."""
    log = read_lines(exp / "log" / "train.jsonl")
    cpu_s = [line["cpu_s"] for line in log if line.get("cpu_s")]
    last = {"steps": log[-1]["step"], "seconds": log[-1].get("seconds")} if log else None
    return last | {"cpu_s": median(cpu_s) if cpu_s else None} if last else None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error})") from None
    return lines


# ----------------------------------------------------------------------------------------------------------- RESULTS.md


class Published(Section):
    """A published number to stand beside ours: `conf/published.yaml` is a list of these.

    `metric` is a name of summary.json, as `si_sdri`; `conf` and `set` restrict it to one experiment or set.
    """

    metric: str
    value: float
    system: str
    source: str
    conf: str | None = None
    set: str | None = None


REFERENCES = {
    "dry": "the target's dry speech",
    "reverberant": "the target as received, with its reverberation",
    "early": "the target with its early reflections",
    "partly early": "the target, with its early reflections in some mixtures",
    "partly reverberant": "the target as received, with reverberation in some mixtures",
    "stems": "the stems that add up to the mixture",
    "none": "nothing: the target is absent in all mixtures",
}
CONDITIONS = {
    "num_talkers=": "{} talkers",
    "gender=": "{} gender",
    "noise=": "noise: {}",
    "reverberant=": "reverberant: {}",
    "num_enrolls=": "{} enrolments",
    "variant=": "variant {}",
    "stem=": "{}",
}


def write_results(path: str | Path, exp_root: str | Path, published: str | Path) -> None:
    """RESULTS.md from every `<exp_root>/*/*/summary.json`, the notes and the published numbers, and nothing else.

    It begins with `results.md` beside the published numbers, where there is one.
    """
    files = sorted(Path(exp_root).glob("*/*/summary.json"))
    summaries = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    with replace_file(path) as file:
        file.write(
            results_markdown(summaries, read_published(published), read_note(Path(published).with_name("results.md")))
        )


def read_published(path: str | Path) -> list[Published]:
    if not Path(path).exists():
        return []
    entries = read_yaml(path) or []
    if not isinstance(entries, list):
        raise ValueError(f"{path}: a list of {{metric, value, system, source}} expected")
    return [build(Published, entry, f"{path}[{number}]") for number, entry in enumerate(entries)]


def read_note(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def results_markdown(summaries: Sequence[dict[str, Any]], published: Sequence[Published] = (), top: str = "") -> str:
    lines = [
        "# Results",
        "",
        "Generated by `tse results`; changes are overwritten, except those in `conf/results.md` and",
        "`conf/<experiment>.md`. Brackets hold 95 % bootstrap intervals over mixtures.",
        "",
        *([top, ""] if top else []),
        *overview(summaries),
    ]
    networks = network_rows(summaries)
    if networks:
        lines += ["", *table(NETWORK_HEAD, networks)]
    for name in sorted({summary["exp"] for summary in summaries}):
        of_experiment = [summary for summary in summaries if summary["exp"] == name]
        lines += ["", f"## {name}"]
        for summary in of_experiment:
            lines += _set_section(summary, published)
        note = Path(of_experiment[0]["conf"] or name).with_suffix(".md")
        if of_experiment[0]["conf"] and note.exists():
            lines += ["", "### Notes", "", note.read_text(encoding="utf-8").strip()]
    return "\n".join(lines) + "\n"


OVERVIEW_HEAD = [
    "experiment", "set", "targets", "SI-SDRi (dB)", "SDRi (dB)", "PESQ", "ESTOI", "confused", "false accepts",
]  # fmt: skip


def overview(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """A table of all experiments, and one for each list of stems that some of them separate."""
    talkers = [summary for summary in summaries if "stems" not in summary]
    lines = table(OVERVIEW_HEAD, [_overview(summary) for summary in talkers]) if talkers or not summaries else []
    for stems in dict.fromkeys(tuple(summary["stems"]) for summary in summaries if "stems" in summary):
        own = [summary for summary in summaries if tuple(summary.get("stems", ())) == stems]
        lines += ([""] if lines else []) + [
            "SDR of whole tracks (uSDR) in dB of each stem, over the mixtures in which it is heard, and their mean;",
            "that of the mixtures themselves in the lines `mixture`.",
            "",
            *table(["experiment", "set", "mean", *stems, "SI-SDRi", "false accepts"], stem_rows(own, stems)),
        ]
        framed = [summary for summary in own if "csdr" in summary["metrics"]]
        if framed:
            head = ["experiment", "set", "mean", *stems, "ISR", "SIR", "SAR"]
            lines += [
                "",
                "SDR by museval (BSS Eval v4) in dB: of a mixture the median of frames of 1 s, then the mean.",
                "",
            ]
            lines += table(head, [_framed_row(summary, stems) for summary in framed])
    return lines


def stem_rows(summaries: Sequence[dict[str, Any]], stems: Sequence[str]) -> list[list[str]]:
    """A row a summary, and one for the mixtures of each set."""
    rows, told = [], set()
    for summary in summaries:
        metrics, groups = summary["metrics"], summary["groups"]
        if summary["set"] not in told:
            told.add(summary["set"])
            before = [interval(groups[f"stem={stem}"].get("usdr_mixture"), 2, limits=False) for stem in stems]
            mean = interval(metrics.get("usdr_mixture" + OVER_STEMS), 2)
            rows.append(["mixture", summary["set"], mean, *before, "-", "-"])
        rows.append([
            link(summary["exp"]),
            summary["set"],
            interval(metrics.get("usdr" + OVER_STEMS), 2),
            *(interval(groups[f"stem={stem}"].get("usdr"), 2) for stem in stems),
            interval(metrics.get("si_sdri" + OVER_STEMS), 2),
            percent(metrics.get("false_accept_rate")),
        ])  # fmt: skip
    return rows


def link(exp: str) -> str:
    """To the experiment's section, whose address has no punctuation: `tse_v1.5` is at `#tse_v15`."""
    address = re.sub(r"[^\w -]", "", exp.lower()).replace(" ", "-")
    return f"[{exp}](#{address})"


def _framed_row(summary: dict[str, Any], stems: Sequence[str]) -> list[str]:
    own = [summary["groups"][f"stem={stem}"].get("csdr") for stem in stems]
    names = ("csdr", "cisr", "csir", "csar")
    mean, *others = (interval(summary["metrics"].get(name + OVER_STEMS), 2) for name in names)
    return [summary["exp"], summary["set"], mean, *(interval(entry, 2) for entry in own), *others]


NETWORK_HEAD = ["experiment", "network", "parameters", "GMAC/s", "steps", "CPU s a step", "SDR", "SIR", "SAR (dB)"]


def network_rows(summaries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What each experiment costs, and of its first set what its SDR is made of."""
    rows = {}
    for summary in summaries:
        network, trained = summary.get("network"), summary.get("training") or {}
        if not network or summary["exp"] in rows:
            continue
        rows[summary["exp"]] = [
            summary["exp"],
            network["name"],
            f"{network['params']:,}",
            f"{network['gmac_per_s']:.3g}",
            str(trained.get("steps") or ""),
            f"{trained['cpu_s']:.3f}" if trained.get("cpu_s") else "",
            *(interval(summary["metrics"].get(name), 2, limits=False) for name in components(summary)),
        ]
    return list(rows.values())


def components(summary: dict[str, Any]) -> tuple[str, ...]:
    return ("usdr_over_stems", "csir_over_stems", "csar_over_stems") if "stems" in summary else ("sdr", "sir", "sar")


def _overview(summary: dict[str, Any]) -> list[str]:
    metrics = summary["metrics"]
    pesq = next((name for name in ("pesq_wb", "pesq_nb") if name in metrics), "")
    return [
        link(summary["exp"]),
        summary["set"],
        str(summary["n"]),
        interval(metrics.get("si_sdri"), 2),
        interval(metrics.get("sdri"), 2),
        interval(metrics.get(pesq), 2) + (f" ({pesq[-2:]})" if pesq else ""),
        interval(metrics.get("estoi"), 3),
        percent(metrics.get("confusion_rate")),
        percent(metrics.get("false_accept_rate")),
    ]


def _set_section(summary: dict[str, Any], published: Sequence[Published]) -> list[str]:
    lines = ["", f"### {summary['set']}", "", *[f"- {fact}" for fact in facts(summary)]]
    lines += ["", "```", summary["command"], "```"] if summary["command"] else []
    if summary["n_present"]:
        lines += ["", *table(["metric", "mixture", "output", "improvement", "n"], quality_rows(summary["metrics"]))]
    presence = presence_rows(summary["metrics"])
    lines += ["", *table(["presence", "value", "n"], presence)] if presence else []
    conditions = condition_rows(summary)
    if conditions:
        lines += ["", *table(STEM_HEAD if "stems" in summary else CONDITION_HEAD, conditions)]
    if summary["nulls"]:
        lines += ["", *table(["without a value", "targets", "reason"], null_rows(summary["nulls"]))]
    metrics = summary["metrics"]
    rows = [
        [entry.metric, interval(metrics.get(entry.metric), 2), f"{entry.value:g}", entry.system, entry.source]
        for entry in published
        if entry.conf in (None, summary["conf"]) and entry.set in (None, summary["set"])
    ]
    return lines + (["", *table(["metric", "ours", "published", "system", "source"], rows)] if rows else [])


def facts(summary: dict[str, Any]) -> list[str]:
    """Where the numbers come from, a line each."""
    what = ("stems", "heard", "silent") if "stems" in summary else ("targets", "present", "absent")
    targets = f"{summary['n']} {what[0]} ({summary['n_present']} {what[1]}, {summary['n_absent']} {what[2]})"
    lines = [
        f"conf: `{summary['conf']}`, seed {summary['seed']}, commit `{summary['commit']}`"
        if summary["conf"]
        else f"no conf, commit `{summary['commit']}`",
        f"{targets}, {summary['sample_rate']} Hz; a stem is silent below {SILENT_TRACK_DBFS:.0f} dBFS (RMS)"
        if "stems" in summary
        else f"{targets} of {summary['num_speakers']} speakers, {summary['sample_rate']} Hz",
        f"scored against {REFERENCES[summary['reference']]}",
        f"scored on {summary['machine']['cpu']}, {summary['machine']['cores']} cores",
    ]
    if summary["training"]:
        steps, seconds = summary["training"]["steps"], summary["training"]["seconds"]
        lines.append(f"trained {steps} steps" + (f" in {duration(seconds)}" if seconds is not None else ""))
    limits = (summary["metrics"].get("si_sdri") or {}).get("ci95_speakers")
    if limits and "stems" not in summary:
        lines.append(f"SI-SDRi resampled by target speaker: [{limits[0]:.2f}, {limits[1]:.2f}] dB")
    return lines


def quality_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """A row a metric: of the mixture, of the output, the improvement, and how many targets have a value."""
    rows = []
    for measure in MEASURES:
        if measure.name not in metrics:
            continue
        rows.append([
            f"{measure.label} ({measure.unit})" if measure.unit else measure.label,
            interval(metrics.get(f"{measure.name}_mixture"), measure.digits, limits=False),
            interval(metrics[measure.name], measure.digits),
            interval(metrics.get(measure.improvement), measure.digits, sign="+"),
            str(metrics[measure.name]["n"]),
        ])  # fmt: skip
    return rows


def presence_rows(metrics: dict[str, Any]) -> list[list[str]]:
    shown = [
        ("target present: attenuation (dB)", "tp_attenuation_db", None),
        ("target present: nearer to an interferer (confused)", "confusion_rate", percent),
        ("target present: improved by more than 1 dB", "above_1db_rate", percent),
        ("target absent: attenuation (dB)", "ta_attenuation_db", None),
        ("target absent: louder than mixture - 20 dB (false accept)", "false_accept_rate", percent),
        ("before and after its stretch: attenuation, 50 ms frames (dB)", "frame_attenuation_db", None),
        ("its stretch over before and after: contrast of the output (dB)", "frame_contrast_db", None),
        ("frames before and after, louder than mixture - 20 dB (false accept)", "frame_false_accept_rate", percent),
        ("frames of its speech, quieter than target - 20 dB (false reject)", "frame_false_reject_rate", percent),
        ("seconds without it, judged present at the calibrated threshold", "presence_false_accept_rate", percent),
        ("seconds with it, judged absent at the calibrated threshold", "presence_false_reject_rate", percent),
    ]
    return [
        [label, form(metrics[name], limits=True) if form else interval(metrics[name], 1), str(metrics[name]["n"])]
        for label, name, form in shown
        if name in metrics
    ]


CONDITION_HEAD = ["condition", "targets", "SI-SDRi (dB)", "SDRi (dB)", "ESTOI", "confused", "> 1 dB", "false accepts"]
STEM_HEAD = [
    "stem",
    "heard",
    "silent",
    "uSDR (dB)",
    "uSDRi (dB)",
    "SI-SDR (dB)",
    "where silent, below the mixture (dB)",
]


def condition_rows(summary: dict[str, Any]) -> list[list[str]]:
    """A row for each condition that splits the set: one that holds for all targets says nothing new; or each stem."""
    if "stems" in summary:
        return [stem_row(name, summary["groups"][f"stem={name}"]) for name in summary["stems"]]
    rows = []
    for name in sorted(summary["groups"], key=condition_order):
        metrics = summary["groups"][name]
        count = sum(metrics[key]["n"] for key in ("tp_attenuation_db", "ta_attenuation_db") if key in metrics)
        if count < summary["n"]:
            rows.append(condition_row(condition_label(name), count, metrics))
    over = {name: entry for name, entry in summary["metrics"].items() if name.endswith(OVER_VARIANTS)}
    if over:
        alike = {name.removesuffix(OVER_VARIANTS): entry for name, entry in over.items()}
        rows.append(condition_row("mean over the variants", summary["n"], alike))
    return rows


def stem_row(name: str, metrics: dict[str, Any]) -> list[str]:
    heard, silent = (str((metrics.get(key) or {}).get("n", 0)) for key in ("usdr", "ta_attenuation_db"))
    quality = (interval(metrics.get(key), 2) for key in ("usdr", "usdri", "si_sdr"))
    return [name, heard, silent, *quality, interval(metrics.get("ta_attenuation_db"), 1)]


def condition_row(label: str, count: int, metrics: dict[str, Any]) -> list[str]:
    return [
        label,
        str(count),
        interval(metrics.get("si_sdri"), 2),
        interval(metrics.get("sdri"), 2),
        interval(metrics.get("estoi"), 3),
        percent(metrics.get("confusion_rate")),
        percent(metrics.get("above_1db_rate")),
        percent(metrics.get("false_accept_rate")),
    ]


def null_rows(nulls: dict[str, dict[str, int]]) -> list[list[str]]:
    """Metrics that fail together for one reason share a row."""
    together: dict[tuple[int, str], list[str]] = {}
    for metric, reasons in nulls.items():
        for reason, count in reasons.items():
            together.setdefault((count, reason), []).append(metric)
    return [[", ".join(names), str(count), reason] for (count, reason), names in together.items()]


def condition_order(name: str) -> tuple[int, str]:
    """Sorts conditions as CONDITIONS lists them."""
    return next(place for place, prefix in enumerate(CONDITIONS) if name.startswith(prefix)), name


def condition_label(name: str) -> str:
    """`num_talkers=2` -> `2 talkers`."""
    prefix, value = name[: name.index("=") + 1], name[name.index("=") + 1 :]
    label = CONDITIONS[prefix].format(value)
    return label[:-1] if value == "1" and label.endswith("s") else label


def interval(entry: dict[str, Any] | None, digits: int, limits: bool = True, sign: str = "") -> str:
    """`12.31 [11.90, 12.68]`, or a dash where there is no value."""
    if not entry or entry["mean"] is None:
        return "-"
    text = f"{entry['mean']:{sign}.{digits}f}"
    if limits and entry["ci95"]:
        text += f" [{entry['ci95'][0]:{sign}.{digits}f}, {entry['ci95'][1]:{sign}.{digits}f}]"
    return text


def percent(entry: dict[str, Any] | None, limits: bool = False) -> str:
    """`3.1 %`, or a dash where there is no value."""
    if not entry or entry["mean"] is None:
        return "-"
    text = f"{100 * entry['mean']:.1f} %"
    if limits and entry["ci95"]:
        text += f" [{100 * entry['ci95'][0]:.1f}, {100 * entry['ci95'][1]:.1f}]"
    return text


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.4 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; bars in cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]
