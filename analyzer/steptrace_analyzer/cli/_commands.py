"""Commands that are imported when they are run, or when the help lists them."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from steptrace_schema.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.metadata import EntryPoint


_WHOLE: Final = 1000  # characters: a summary is one sentence, which the help wraps and never cuts


class PlainCommand(TyperCommand):
    """A command whose arguments are written as they are, and whose summary is not cut."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what the usage line holds; some versions of typer write ``{TRACE}``."""
        pieces = super().collect_usage_pieces(ctx)
        return [p.replace("{", "").replace("}", "") for p in pieces]

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        """Return the first sentence, however long."""
        return super().get_short_help_str(_WHOLE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take options up to a script, also between the arguments before it."""
        return super().parse_args(ctx, args if ctx.allow_interspersed_args else self._sorted(args))

    def _sorted(self, args: list[str]) -> list[str]:
        """Place options before the command's own arguments; what follows those is a script's."""
        options = [p for p in self.params if p.param_type_name == "option"]
        with_value = {o for p in options if not getattr(p, "is_flag", False) for o in p.opts}
        wanted = sum(p.param_type_name == "argument" and p.nargs == 1 for p in self.params)
        given: list[str] = []
        own: list[str] = []
        rest = list(args)
        while rest and len(own) < wanted and rest[0] != "--":
            if rest[0].startswith("-"):
                taken = 2 if rest[0] in with_value else 1
                given, rest = given + rest[:taken], rest[taken:]
            else:
                own.append(rest.pop(0))
        return [*given, *own, *rest]


class PlainGroup(TyperGroup):
    """A group that names the commands which a mistyped one resembles, and cuts no summary."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, or say which there are of a like name."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx))
            if near and not ctx.resilient_parsing:
                meant = " or ".join(repr(other) for other in near)
                ctx.fail(f"No such command {name!r}. Did you mean {meant}?")
        return super().resolve_command(ctx, args)

    def get_short_help_str(self, limit: int = _WHOLE) -> str:
        """Return the first sentence, however long."""
        return super().get_short_help_str(_WHOLE)


def lazy_group(commands: Mapping[str, str], entry_points: str) -> type[PlainGroup]:
    """Return a group whose commands are imported one by one.

    Parameters
    ----------
    commands
        Name to ``module:attribute``, a function or a typer app.
    entry_points
        Name of the entry-point group through which other packages add functions as commands.
        They never replace a command of `commands`.
    """

    class LazyGroup(PlainGroup):
        """The commands of the table, then those that other packages add."""

        def list_commands(self, ctx: Any) -> list[str]:
            added = (name for name in sorted(_added(entry_points)) if name not in commands)
            return [*commands, *added]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in commands:
                module, _, attribute = commands[cmd_name].partition(":")
                return _command(cmd_name, getattr(import_module(module), attribute))
            entry = _added(entry_points).get(cmd_name)
            return None if entry is None else _command(cmd_name, _load(entry))

    return LazyGroup


def _added(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=group)}


def _load(entry: EntryPoint) -> Callable[..., Any]:
    """Import an added command, or return one in its place that says why it cannot be."""
    try:
        loaded: Callable[..., Any] = entry.load()
    except (ImportError, AttributeError) as error:
        reason = f"command '{entry.name}' cannot be loaded from {entry.value}: {error}"

        def unavailable() -> NoReturn:
            """Not available: its package cannot be imported."""
            raise TraceError(reason) from None

        return unavailable
    return loaded


def _command(name: str, target: typer.Typer | Callable[..., Any]) -> Any:
    """Make a command of a function or a typer app."""
    if isinstance(target, typer.Typer):
        command = typer.main.get_command(target)
        command.name = name
        return command
    text, examples = _split_examples(inspect.getdoc(target) or "")
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    settings = getattr(target, "context_settings", None)  # of click, where a command needs any
    made = single.command(
        name, cls=PlainCommand, help=text, epilog=examples, context_settings=settings
    )
    made(target)
    return typer.main.get_command(single)


def _split_examples(doc: str) -> tuple[str, str]:
    """Split a docstring before its section "Examples", which help prints below the options."""
    text, _, examples = doc.partition("Examples\n--------\n")
    # \b keeps the line breaks of a paragraph.
    lines = textwrap.indent(inspect.cleandoc(examples), "  ")
    return text.strip(), f"\b\nExamples:\n{lines}" if examples else ""
