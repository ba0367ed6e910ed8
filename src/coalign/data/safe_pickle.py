"""Published pickles, read without running anything: see `checkpoints.safe_pickle`."""

from coalign.checkpoints.safe_pickle import load

__all__ = ["load"]
