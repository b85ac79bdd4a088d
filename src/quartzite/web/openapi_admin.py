"""The admin API in the words of OpenAPI, from the table in `openapi_admin.json`. Knows nothing of failures."""

import json
import re
from importlib import resources
from typing import Any

Json = dict[str, Any]

SCHEME: Json = {"type": "http", "scheme": "bearer", "description": "The token of `[admin]` in the settings."}


def admin_paths() -> Json:
    """Return the paths under /admin with their operations, for the holder of the token `adminToken`."""
    table: Json = json.loads(resources.files(__package__).joinpath("openapi_admin.json").read_text(encoding="utf-8"))
    return {
        path: {method: _operation(path, method, entry) for method, entry in by_method.items()}
        for path, by_method in table.items()
    }


def _operation(path: str, method: str, entry: Json) -> Json:
    names = re.findall(r"{(\w+)}", path)
    parameters = [_parameter(name, "path", "Escaped as in every URL; slashes may stay.") for name in names]
    parameters += [_parameter(name, "query", about) for name, about in entry.get("query", {}).items()]
    operation: Json = {
        "tags": ["Administration"],
        "summary": entry["summary"],
        "operationId": f"{method}{re.sub('[^a-z]+', '_', path)}".rstrip("_"),
        "security": [{"adminToken": []}],
        "parameters": parameters,
        "responses": {
            str(entry.get("status", 200)): {
                "description": "What is there now.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }
    if "body" in entry:
        schema = {"type": "object", "required": entry["required"], "properties": entry["body"]}
        if not schema["required"]:
            del schema["required"]  # the list may not be empty
        operation["requestBody"] = {"content": {"application/json": {"schema": schema, "examples": {}}}}
    return operation


def _parameter(name: str, place: str, about: str) -> Json:
    kind = {"type": "integer"} if (place, name) == ("path", "id") else {"type": "string"}
    return {"name": name, "in": place, "required": place == "path", "description": about, "schema": kind}
