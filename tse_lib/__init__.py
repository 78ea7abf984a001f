"""Target speaker extraction and source separation: models, losses, simulation, training, inference, scoring."""

__version__ = "0.1.0"


def load(path, device="cpu"):
    """A trained model ready to extract: see `tse_lib.inference.extractor.load`."""
    from tse_lib.inference.extractor import load as load_extractor  # torch is imported only when asked for

    return load_extractor(path, device)
