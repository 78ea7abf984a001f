"""Separate recordings of any length, sample rate and number of channels into their sources, with a trained model."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tse_lib import audio
from tse_lib.config import Deployed, Inference
from tse_lib.inference import network
from tse_lib.inference.chunked import infer_blocks, processor, with_progress
from tse_lib.inference.extractor import as_array
from tse_lib.inference.memory import SHARE, available_bytes, bytes_of_chunk, peak_bytes
from tse_lib.models import build_model, num_sources_of

BLOCK = 1 << 18  # samples handed on at once


class Separator:
    """A trained model ready for use.

    Example:
        separator = tse_lib.load("exp/sep/best.pt")
        alice, bob = separator.separate(mixture, sample_rate)
    """

    def __init__(self, model: nn.Module, conf: Deployed, device: torch.device | str = "cpu"):
        self.model, self.conf, self.device = model.to(device).eval(), conf, torch.device(device)

    @property
    def sample_rate(self) -> int:
        return self.conf.sample_rate

    def convert(self, precision: str) -> None:
        """Compute in a precision of `network.PRECISIONS` from now on.

        Raises:
            ValueError: unknown, slower on this device, or a network that cannot be converted.
        """
        network.convert(self.model, precision, self.device)

    def compile(self) -> None:
        """Compile the network at its first chunk, which takes minutes.

        Raises:
            ValueError: not on a GPU.
        """
        if self.device.type != "cuda":
            raise ValueError(f"--compile: it is for GPUs; on {self.device} it takes minutes and gains next to nothing")
        getattr(self.model, "network", self.model).compile()

    def run_exported(self, path: Path, backend: str, precision: str = "float32") -> None:
        """Have a backend of `network.BACKENDS` compute with an exported network in the place of torch's.

        Args:
            path: an .onnx file, which must be of this model (`network.exported` sees to that).
            precision: float32, bfloat16 (openvino), or int8 if the file is quantised.

        Raises:
            ValueError: not on this device, not in this precision, or a network that cannot be exported.
            ModuleNotFoundError: the backend is not installed.
        """
        network.refuse_backend(backend, precision, self.device)
        network.network_of(self.model)
        self.model.network = network.ExportedNetwork(
            network.BACKENDS[backend](path, precision), network.MEMORY[backend]
        )

    @property
    def source_names(self) -> tuple[str, ...]:
        """The conf's names of the sources in their order, or their numbers from 1 on."""
        num_sources = num_sources_of(self.conf.model.name, self.conf.model.params)
        names = self.conf.inference.source_names or tuple(str(number + 1) for number in range(num_sources))
        if len(names) != num_sources:
            raise ValueError(
                f"the model's conf has names for {len(names)} sources ({', '.join(names)}) of {num_sources}"
            )
        return names

    def fit_memory(self, settings: Inference, num_channels: int, seconds: float) -> tuple[Inference, str]:
        """The settings with as many chunks at once as fit into memory, and in words what they take.

        Raises:
            ValueError: not even one fits.
        """
        longest = min(settings.chunk_s, seconds)
        size = max(1, round(longest * self.sample_rate))
        if hasattr(self.model, "network"):
            one = self._bytes_without_running(size, num_channels, settings)
        else:
            ramp = torch.linspace(-0.1, 0.1, max(1, size // 8), device=self.device).expand(1, num_channels, -1)
            process = processor(self.model, None, settings)
            one = bytes_of_chunk(process, ramp, [*self.model.parameters(), *self.model.buffers()])
        free = available_bytes(self.device)
        fitting = settings.batch_size if free is None else min(settings.batch_size, int(SHARE * free / max(1, one)))
        told = f"about {one / 2**20:,.0f} MiB for a chunk of {longest:.1f} s, {num_channels} channel(s)"
        if free is not None:
            told += f"; {free / 2**30:.1f} GiB free on {self.device}"
        if not fitting:
            raise ValueError(f"{told}: not enough; a shorter chunk_s takes less")
        if fitting < settings.batch_size:
            told += f"; {fitting} at once instead of {settings.batch_size}"
        return settings.model_copy(update={"batch_size": fitting}), told

    @torch.no_grad()
    def _bytes_without_running(self, num_samples: int, num_channels: int, settings: Inference) -> int:
        """As `bytes_of_chunk`, of a network of the same shapes that has no numbers: exact, and at once."""
        with torch.device("meta"):
            model = build_model(self.conf.model.name, self.conf.model.params, self.conf.sample_rate, task=None).eval()
            chunk = torch.zeros(1, num_channels, num_samples)
        weight = next(self.model.network.parameters(), chunk)  # type: ignore[union-attr]
        network.network_of(model).to(weight.dtype)
        there = [*model.parameters(), *model.buffers()]
        of_network = peak_bytes(model, chunk, there) * getattr(self.model.network, "memory", 1)
        process = processor(model, None, settings.model_copy(update={"stitch": False}))  # which looks at numbers
        return max(round(of_network), peak_bytes(process, chunk, there))

    def separate(
        self,
        mixture: np.ndarray | Tensor,
        sample_rate: int,
        settings: Inference | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """All sources of a mixture in memory.

        Args:
            mixture: (T,) or (C, T).
            sample_rate: of the mixture, any; the sources come back at the same.
            settings: chunk length, overlap, batch size, order and level; the conf's own by default.
            progress: show a bar.

        Returns:
            float32, (S, T) or (S, C, T). Silence where the mixture is digital silence.

        Raises:
            ValueError: the mixture is empty, not finite or of a wrong shape.
        """
        wave = as_array(mixture, "mixture")
        channels = np.atleast_2d(wave)
        blocks = np.split(channels, range(BLOCK, channels.shape[1], BLOCK), axis=1)
        sources = self.separate_blocks(blocks, sample_rate, settings)
        seconds = channels.shape[1] / sample_rate
        if progress and seconds > (settings or self.conf.inference).chunk_s:
            sources = with_progress(sources, "chunks", seconds, sample_rate)
        joined = np.concatenate(list(sources), -1)
        return joined.reshape(len(joined), *wave.shape)

    def separate_blocks(
        self, blocks: Iterable[np.ndarray], sample_rate: int, settings: Inference | None = None
    ) -> Iterator[np.ndarray]:
        """All sources of a mixture that comes in blocks, such as `audio.read_blocks` of a file.

        Args:
            blocks: (C, n) float32, of any lengths. What is in memory depends on settings' chunk and batch only.
            sample_rate, settings: as of `separate`.

        Yields:
            (S, C, n) float32, in other lengths, together as long as `blocks`.
        """
        num_read = num_done = num_channels = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal num_read, num_channels
            for block in blocks:
                num_read, num_channels = num_read + block.shape[1], len(block)
                yield block

        mixture = audio.resample_blocks(counted(), sample_rate, self.sample_rate)
        estimates = infer_blocks(
            self.model,
            (to_device(np.ascontiguousarray(block), self.device) for block in mixture),
            None,
            settings or self.conf.inference,
            self.sample_rate,
        )
        waves = to_host(block.float().flatten(0, 1) for block in estimates)  # (S*C, n)
        for block in audio.resample_blocks(waves, self.sample_rate, sample_rate):
            block = block[:, : num_read - num_done]
            num_done += block.shape[1]
            yield block.reshape(len(block) // num_channels, num_channels, block.shape[1])
        if num_done < num_read:  # there and back may be a sample off
            yield np.zeros((len(block) // num_channels, num_channels, num_read - num_done), np.float32)


def to_device(block: np.ndarray, device: torch.device) -> Tensor:
    """A copy to a GPU does not wait for what that is doing."""
    wave = torch.from_numpy(block)
    return wave.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else wave.to(device)


def to_host(blocks: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Blocks in the host's memory. A GPU's are copied by a stream beside the one that computes, each handed on when the
    next one is being copied."""
    before, stream = None, None
    for block in blocks:
        if not block.is_cuda:
            yield block.numpy()
            continue
        stream = stream or torch.cuda.Stream(block.device)
        stream.wait_stream(torch.cuda.current_stream(block.device))  # until the block is computed
        host = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        with torch.cuda.stream(stream):
            host.copy_(block, non_blocking=True)
            copied = stream.record_event()
        block.record_stream(stream)
        if before:
            before[1].synchronize()
            yield before[0].numpy()
        before = host, copied
    if before:
        before[1].synchronize()
        yield before[0].numpy()
