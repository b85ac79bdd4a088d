"""The command tree and its exit codes: 0 done, 1 the work failed, 2 wrong usage or settings.

Knows the commands, not their work: what is heavy is imported by a command when it runs, so that help is instant.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from quartzite import __version__
from quartzite.cli import accounts, control, keys
from quartzite.cli.embed import embed
from quartzite.cli.models import check, list_models, pull
from quartzite.cli.serve import serve
from quartzite.cli.usage import trace, usage
from quartzite.errors import DatabaseDown, InvalidConfig, RequestFailure, StartFailure

app = typer.Typer(
    name="quartzite",
    help="A self-hosted embeddings service on plain processors, straight from Hugging Face weights.",
    epilog="Exit codes: 0 done, 1 the work failed, 2 wrong usage or settings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="The models known by name, and their files.", no_args_is_help=True)
app.command("serve")(serve)
app.command("embed")(embed)
app.add_typer(models_app, name="models")
models_app.command("list")(list_models)
models_app.command("pull")(pull)
models_app.command("check")(check)
models_app.command("load")(control.load)
models_app.command("unload")(control.unload)
accounts_app = typer.Typer(help="Who may use the service.", no_args_is_help=True)
app.add_typer(accounts_app, name="accounts")
accounts_app.command("create")(accounts.create)
accounts_app.command("list")(accounts.list_accounts)
accounts_app.command("show")(accounts.show)
accounts_app.command("set")(accounts.set_account)
accounts_app.command("disable")(accounts.disable)
accounts_app.command("enable")(accounts.enable)
keys_app = typer.Typer(help="The secrets by which accounts come in.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
keys_app.command("create")(keys.create)
keys_app.command("list")(keys.list_keys)
keys_app.command("revoke")(keys.revoke)
keys_app.command("rotate")(keys.rotate)
app.command("usage")(usage)
app.command("trace")(trace)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quartzite {__version__}")
        raise typer.Exit


@app.callback()
def _quartzite(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A self-hosted embeddings service on plain processors, straight from Hugging Face weights."""
    if context.invoked_subcommand == "serve":
        read = set(_variables(context.command))
        for name in sorted(name for name in os.environ if name.startswith("QUARTZITE_") and name not in read):
            typer.echo(f"quartzite: {name} is set, and no flag has such a variable: it is ignored", err=True)


def _variables(command: Any) -> Iterator[str]:
    """Yield the environment variables of a command and of those below it."""
    yield from (parameter.envvar for parameter in command.params if getattr(parameter, "envvar", None))
    for below in getattr(command, "commands", {}).values():
        yield from _variables(below)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line `arguments`, those of the process unless given, and exit with its code."""
    try:
        app(arguments)
    except InvalidConfig as failure:
        _fail(str(failure), 2)
    except DatabaseDown as failure:
        from quartzite.storage.database import words_of

        _fail(f"the database does not answer: {words_of(failure)}", 1)
    except (StartFailure, RequestFailure) as failure:
        _fail(str(failure), 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"quartzite: {message}", err=True)
    sys.exit(code)
