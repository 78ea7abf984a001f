"""The options of every verb that computes with torch: where, and with how many threads."""

import argparse

import torch

from tse_lib.distributed import pick_device


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")


def device_of(args: argparse.Namespace) -> torch.device:
    """The device asked for; sets the number of threads on the way."""
    if args.threads < 0:
        raise ValueError(f"--threads {args.threads}: at least 1, or 0 for torch's choice")
    if args.threads:
        torch.set_num_threads(args.threads)
    return pick_device(args.device)
