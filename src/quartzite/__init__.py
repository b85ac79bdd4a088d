"""Quartzite: a self-hosted embeddings service; this package's public face is its version and its errors."""

from quartzite.errors import QuartziteError, RequestFailure, StartFailure

__all__ = ["QuartziteError", "RequestFailure", "StartFailure", "__version__"]
__version__ = "0.1.0"
