"""tse doctor: what this machine and environment can do, and what is missing. Works without torch."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

# module: (name of the package, extra of setup.py, what it adds)
OPTIONAL = {
    "tensorboard": ("tensorboard", "train", "training curves"),
    "pesq": ("pesq", "eval", "PESQ scores"),
    "pystoi": ("pystoi", "eval", "STOI scores"),
    "fast_bss_eval": ("fast-bss-eval", "eval", "SDR scores"),
    "pyroomacoustics": ("pyroomacoustics", "sim", "simulated rooms"),
    "onnx": ("onnx", "export", "ONNX export"),
    "onnxruntime": ("onnxruntime", "export", "running exported models"),
    "openvino": ("openvino", "openvino", "running exported networks, in bfloat16 too"),
    "mido": ("mido", "drums", "MIDI performances of drums"),
    "prodigyopt": ("prodigyopt", "drums", "the optimizer Prodigy"),
    "museval": ("museval", "drums", "SDR of 1 s frames"),
    "espeakng_loader": ("espeakng-loader", "mini", "the voices of the mini corpus"),
}
CORE = {
    "numpy": "numpy",
    "scipy": "scipy",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
}
SCHEDULERS = {"slurm": "sbatch", "sge or pbs": "qsub"}
GIB = 2**30


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tse doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    found = examine()
    print(json.dumps(found, indent=1) if options.json else as_text(found))
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory_gib(),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "driver": driver(),
        "torch": torch_facts(),
        "core": {package: installed_version(module, package) for module, package in CORE.items()},
        "schedulers": [name for name, program in SCHEDULERS.items() if shutil.which(program)],
        "optional": {
            module: {"version": installed_version(module, package), "extra": extra, "adds": adds}
            for module, (package, extra, adds) in OPTIONAL.items()
        },
    }
    found["problems"] = problems(found)
    return found


def problems(found: dict[str, Any]) -> list[str]:
    listed = []
    if not (3, 10) <= sys.version_info < (3, 13):
        listed.append(f"Python {found['python']['version']} is not tested; 3.10 to 3.12 are")
    if "error" in found["torch"]:
        listed.append(f"torch: {found['torch']['error']}; tools/install.sh makes an environment that has it")
    elif found["driver"] and not found["torch"]["gpus"]:
        listed.append("there is a GPU, but this torch cannot use it: install a torch built for the driver's CUDA")
    missing = [package for package, version in found["core"].items() if version is None]
    if missing:
        listed.append(f"not installed: {' '.join(missing)}; pip install -e . installs them")
    return listed


def memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (OSError, ValueError):
        return None


def driver() -> str | None:
    """The version of the NVIDIA driver, or None."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None


def torch_facts() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: built for libraries that are not here
        return {"error": str(error).split("\n")[0]}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "bf16_on_cpu": bf16_on_cpu()}


def bf16_on_cpu() -> bool:
    """Whether the CPU multiplies bfloat16 itself; otherwise bf16 works but is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16 "))


def installed_version(module: str, package: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def as_text(found: dict[str, Any]) -> str:
    torch = found["torch"]
    lines = [
        f"python      {found['python']['version']} ({found['python']['executable']})",
        f"system      {found['system']}",
        f"cores       {found['cores']}",
        f"memory      {found['memory_gib']} GiB",
        f"disk        {found['disk_free_gib']} GiB free here",
        f"driver      {found['driver'] or 'no NVIDIA driver'}",
    ]
    if "error" in torch:
        lines.append(f"torch       missing: {torch['error']}")
    else:
        lines.append(f"torch       {torch['version']} (CUDA {torch['cuda'] or 'none'})")
        lines.append(f"GPUs        {', '.join(torch['gpus']) or 'none'}")
        lines.append(f"bf16 on CPU {'yes' if torch['bf16_on_cpu'] else 'slow: the CPU has no instructions for it'}")
    lines.append(f"schedulers  {', '.join(found['schedulers']) or 'none (tasks run on this machine)'}")
    lines.append(
        "core        " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["core"].items())
    )
    lines.append("optional")
    for module, part in found["optional"].items():
        way = part["version"] or f"missing: pip install -e '.[{part['extra']}]'"
        lines.append(f"  {module:<16} {part['adds']:<30} {way}")
    lines += [f"PROBLEM     {problem}" for problem in found["problems"]]
    return "\n".join(lines)
