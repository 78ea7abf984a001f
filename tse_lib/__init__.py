"""Target speaker extraction and source separation: models, losses, simulation, training, inference, scoring."""

__version__ = "0.1.0"


def load(path, device="cpu", precision="float32"):
    """A trained model ready to extract or to separate: see `tse_lib.inference.loading.load`."""
    from tse_lib.inference.loading import load as load_model  # torch is imported only when asked for

    return load_model(path, device, precision)


def load_profile(path):
    """A speaker profile that `tse enroll` has saved: see `tse_lib.inference.profile`."""
    from tse_lib.inference.profile import load_profile as load

    return load(path)
