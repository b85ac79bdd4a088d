"""The OpenAPI document as a page for people: plain HTML without a program, that needs nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

ADDRESS = "http://127.0.0.1:8000"

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: light-dark(#0b57d0, #8ab4f8) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 0 auto; padding: 1rem 1.25rem 4rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.25rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1rem } a { color: var(--link) } p { margin: .5rem 0 }
code, pre { font: 14px/1.45 ui-monospace, monospace } li { margin: .15rem 0 }
td ul { margin: .25rem 0; padding-left: 1.2rem }
pre { background: var(--soft); padding: .75rem 1rem; border-radius: .4rem; white-space: pre-wrap }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem }
th { font-weight: 600 } td, th { border-bottom: 1px solid var(--line) } td:first-child { white-space: nowrap }
.method { font: 600 .8em ui-monospace, monospace; background: var(--soft); padding: .15em .5em; border-radius: .3em }
summary { cursor: pointer; padding: .3rem 0 } summary b { display: inline-block; min-width: 3rem }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
SECURITY = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def docs_page(document: Json) -> str:
    """Return the page of an OpenAPI `document`; ADDRESS stands in it for where the server is reached."""
    operations = [
        (f"{method}-{path}", method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    body = [
        f"<h1>{title}</h1><p>{_text(document['info']['description'])}</p>",
        f"<h3>Try it</h3><pre>{escape(_curl(document))}</pre>",
        "<p>For programs: <a href='openapi.json'>openapi.json</a>. "
        f"{_text(document['components']['securitySchemes']['bearerAuth']['description'])}</p>",
        "<nav><ul>",
        *[f"<li>{_link(*operation)}</li>" for operation in operations],
        "</ul></nav>",
        *[part for operation in operations for part in _operation(document, *operation)],
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(body)}</body></html>"


def _curl(document: Json) -> str:
    body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
    example = json.dumps(body["examples"]["text"]["value"], ensure_ascii=False).replace("'", "'\\''")
    return f"curl {ADDRESS}/v1/embeddings \\\n  -H 'Content-Type: application/json' \\\n  -d '{example}'"


def _link(anchor: str, method: str, path: str, operation: Json) -> str:
    href = f"<a href='#{escape(anchor)}'><span class=method>{method.upper()}</span> {escape(path)}</a>"
    return f"{href} {escape(operation['summary'])}"


def _operation(document: Json, anchor: str, method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"<h2 id='{escape(anchor)}'><span class=method>{method.upper()}</span> {escape(path)}</h2>"
    yield f"<p>{_text(operation.get('description', operation['summary'] + '.'))}</p>"
    if parameters := operation.get("parameters"):
        yield "<h3>Parameters</h3>"
        yield _table(
            (item["name"], f"{item['in']}, {_type(document, item['schema'])}", item["description"])
            for item in parameters
        )
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        yield "<h3>Body</h3>"
        yield from _fields(document, content["schema"])
        for example in content["examples"].values():
            yield f"<p>{escape(example['summary'])}:</p>{_json(example['value'])}"
    yield "<h3>Answers</h3>"
    for status, response in operation["responses"].items():
        yield from _answer(document, status, response)


def _answer(document: Json, status: str, response: Json) -> Iterator[str]:
    yield f"<details><summary><b>{status}</b> {_text(response['description'])}</summary>"
    for kind, content in response["content"].items():
        yield f"<p><code>{escape(kind)}</code></p>"
        if "examples" in content:
            yield from (_json(example["value"]) for example in content["examples"].values())
        else:
            yield from _fields(document, content["schema"])
    yield _table(
        (name, "header", _text(_resolved(document, header)["description"]))
        for name, header in response["headers"].items()
    )
    yield "</details>"


def _fields(document: Json, schema: Json) -> Iterator[str]:
    whole = _resolved(document, schema)
    if "description" in whole:
        yield f"<p>{_text(whole['description'])}</p>"
    if "properties" in whole:
        required = whole.get("required", [])
        yield _table(
            (name, _type(document, field) + (", required" if name in required else ""), _about(document, field))
            for name, field in whole["properties"].items()
        )


def _about(document: Json, field: Json) -> str:
    """Return as HTML what there is to say of a field: its description, then each of the forms it may have."""
    field = _resolved(document, field)
    default = f" Default: `{field['default']}`." if "default" in field else ""
    forms = [f"<li>{_text(_type(document, form))}: {_about(document, form)}" for form in field.get("oneOf", [])]
    return _text(field.get("description", "") + default) + (f"<ul>{''.join(forms)}</ul>" if forms else "")


def _type(document: Json, schema: Json) -> str:
    schema = _resolved(document, schema)
    if "oneOf" in schema:
        kinds = dict.fromkeys(_resolved(document, form)["type"] for form in schema["oneOf"])
        return " or ".join(kinds)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    kind: str = schema.get("type", "anything")
    if kind == "array":
        most = f" of at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"array{most}, each {_type(document, schema['items'])}"
    least = f" of at least {schema['minimum']}" if schema.get("minimum", -1) >= 0 else ""
    return kind + least


def _resolved(document: Json, schema: Json) -> Json:
    place: Any = document
    if "$ref" not in schema:
        return schema
    for step in schema["$ref"].removeprefix("#/").split("/"):
        place = place[step]
    resolved: Json = place
    return resolved


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return a table of names, their kinds, and what there is to say of them, the latter in HTML already."""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{_text(kind)}</td><td>{about}</td></tr>"
        for name, kind, about in rows
    )
    return f"<table>{cells}</table>"


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, ensure_ascii=False))}</pre>"


def _text(text: str) -> str:
    """Return `text` as HTML, what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
