"""The package tse-lib: the library and the command `tse`. tools/install.sh reads CORE and EXTRAS from here, too."""

from setuptools import find_namespace_packages, setup

CORE = [
    "torch>=2.11,<3",
    "numpy>=1.26,<3",
    "scipy>=1.11,<2",
    "soundfile>=0.12.1",
    "soxr>=0.5",
    "pyyaml>=6,<7",
    "tqdm>=4.60",
    "pydantic>=2.5,<3",
    "safetensors",
]
EXTRAS = {
    "train": ["tensorboard"],
    "eval": ["pesq==0.0.4", "pystoi", "fast-bss-eval"],  # pesq is compiled: a C compiler is needed
    "sim": ["pyroomacoustics"],
    "export": ["onnx", "onnxruntime"],
    "openvino": ["openvino"],
    "drums": ["mido", "prodigyopt", "museval"],  # MIDI; the optimizer of MDX23C; SDR of frames (it brings pandas)
    "mini": ["espeakng-loader>=0.2.4"],  # the voices of the mini corpus
}
EXTRAS["dev"] = ["pytest", "pytest-xdist", "ruff", "mypy", "types-PyYAML", "mir_eval", *sum(EXTRAS.values(), [])]
EXTRAS["bench"] = ["h5py"]  # the predecessor's side of tools/bench/mixing.py

if __name__ == "__main__":
    setup(
        name="tse-lib",
        version="0.1.0",
        description="Target speaker extraction and speech separation: recipes, models and tools",
        license="Apache-2.0",
        python_requires=">=3.10",
        packages=find_namespace_packages(include=["tse_lib", "tse_lib.*"]),
        package_data={"tse_lib.nn": ["*.cpp"]},
        install_requires=CORE,
        extras_require=EXTRAS,
        entry_points={"console_scripts": ["tse = tse_lib.bin.main:main"]},
    )
