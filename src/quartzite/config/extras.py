"""Optional parts and the libraries they need. Knows what is to be installed for them, not what they are."""

import shlex
import sys

from quartzite.errors import MissingExtra


def missing_extra(what: str, extra: str) -> MissingExtra:
    """Return the failure that `what` needs the libraries of `extra`, with the command that installs just these."""
    from importlib.metadata import requires

    marked = (text.partition(";") for text in requires("quartzite") or ())
    wanted = [name.strip() for name, _, marker in marked if f"extra == '{extra}'" in marker.replace('"', "'")]
    command = shlex.join([sys.executable, "-m", "pip", "install", *wanted])
    return MissingExtra(f"{what} needs libraries that are not installed; run: {command}")
