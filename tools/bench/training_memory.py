"""What a training step of the Mamba extractors keeps for its backward pass: one JSON object a line.

The tensors that autograd keeps are counted, each storage once, weights left out, in a forward pass of 1 s and one of
2 s with enrolments as long. They grow linearly with the length, which gives `kept_gib` of a step of `--seconds`.
`recomputing_gib` is with `gradient_checkpointing`: what is kept outside the stacks of Mambas, the stacks' inputs, and
the largest stack, as one at a time is recomputed. Both are float32, one mixture; under bf16 less is kept. Weights,
gradients, the average and AdamW's moments take `state_gib` beside it, 20 bytes a parameter, whatever the batch.

What a GPU's allocator adds is not measured.
"""

import argparse
import json
from collections import Counter

import torch
from torch import Tensor, nn

from tse_lib.models import OneCall, build_model
from tse_lib.models.presets import PRESETS
from tse_lib.nn.mamba import MambaStack

PRESET_NAMES = [name for name in PRESETS if PRESETS[name]["name"].startswith("usef_tse_mamba")]
BYTES_A_PARAMETER = 20  # weight, gradient, average, two moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PRESET_NAMES, default=PRESET_NAMES)
    parser.add_argument("--seconds", type=float, default=10, help="of the mixture (default: %(default)g)")
    args = parser.parse_args()
    for preset in args.only:
        facts = PRESETS[preset]
        model = build_model(facts["name"], facts["params"], facts["sample_rate"], facts["task"]).train()
        one, two = (kept(model, seconds * facts["sample_rate"]) for seconds in (1, 2))
        whole, recomputing = (a + (b - a) * (args.seconds - 1) for a, b in zip(one, two, strict=True))
        params = sum(parameter.numel() for parameter in model.parameters())
        row = {"bench": "training_memory", "case": preset, "params": params, "seconds": args.seconds}
        row |= {"kept_gib": round(whole / 2**30, 2), "recomputing_gib": round(recomputing / 2**30, 2)}
        print(json.dumps(row | {"state_gib": round(BYTES_A_PARAMETER * params / 2**30, 2)}), flush=True)


def kept(model: nn.Module, num_samples: int) -> tuple[int, int]:
    """Bytes that a forward pass keeps, and that it keeps when stacks of Mambas are recomputed."""
    owner = [""]  # the stack that is computed now
    of, inputs = Counter[str](), Counter[str]()
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive = []  # so that no address is used twice

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            of[owner[0]] += storage.nbytes()
        alive.append(x)
        return x

    def enter(name: str, x: Tensor) -> None:
        owner[0] = name
        inputs[name] += x.numel() * x.element_size()

    def leave() -> None:
        owner[0] = ""

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, MambaStack):
            handles.append(module.register_forward_pre_hook(lambda _, args, name=name: enter(name, args[0])))
            handles.append(module.register_forward_hook(lambda *_: leave()))
    noise = 0.05 * torch.randn(1, 1, num_samples, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        estimate = OneCall(model)(noise, noise)
    assert estimate.requires_grad
    for handle in handles:
        handle.remove()
    stacks = [size for name, size in of.items() if name]
    return of.total(), of[""] + inputs.total() + max(stacks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
