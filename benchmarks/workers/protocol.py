"""How a worker is spoken to: one JSON object a line, `{"do": name, ...}` in, `{...}` out; stdlib only."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Commands = Mapping[str, Callable[..., dict[str, Any]]]


def answer(commands: Commands) -> None:
    """Serve commands from standard input until it closes; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("do")](**request)), file=out, flush=True)
