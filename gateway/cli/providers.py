"""`usage-gateway providers`: what each provider can and cannot do, from the adapters' own declarations."""

from collections.abc import Mapping
from difflib import get_close_matches

from rich import box
from rich.table import Table
from rich.text import Text

from adapters import ProviderSpec
from adapters import providers as adapters
from gateway.cli._out import CommandFailed, Exit, Json, hint, machine, people, say
from gateway.describing.capabilities import column, facts, provider_facts

__all__ = ["known", "providers"]


def providers(name: str | None = None, /, *, as_json: Json = False) -> int:
    """Show what each provider can and cannot do, or everything about one, with where each fact is from.

    Parameters
    ----------
    name
        One provider.
    """
    specs = [adapter.spec for adapter in adapters().values()] if name is None else [known(name)]
    if as_json:
        shown = [provider_facts(spec) for spec in specs]
        machine({"data": shown} if name is None else shown[0])
        return Exit.OK
    for spec in specs:
        _show(spec, whole=name is not None)
    if name is None:
        hint("Where each fact is from, and how sure that is: usage-gateway providers NAME")
    return Exit.OK


def known(name: str) -> ProviderSpec:
    """Return a provider's declaration. Raises CommandFailed where there is none, with the nearest name."""
    found = adapters()
    if name in found:
        return found[name].spec
    close = get_close_matches(name, found, n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(found)}"
    raise CommandFailed(f"there is no provider {name!r}: {meant}", Exit.USAGE)


def _show(spec: ProviderSpec, *, whole: bool) -> None:
    say(f"{spec.title}  ·  provider: {spec.name}  ·  {spec.base_url}", "bold")
    columns = {column(spec, profile): facts(spec, door) for profile, door in spec.doors.items()}
    people().print(_table(columns))
    for caution in spec.cautions:
        people().print(Text("  ! ", style="yellow") + Text(caution))
    if whole:
        say("\nWhere this is from", "bold")
        for source in spec.sources:
            grade = Text(f"  {source.grade:<11}", style="yellow" if source.grade == "unverified" else "green")
            people().print(grade + Text(source.fact))
            hint(f"             {source.seen}  {source.url}")
    say("")


def _table(columns: Mapping[str, Mapping[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=len(columns) > 1, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for head in columns:
        table.add_column(_plain(head), overflow="fold")
    for heading in next(iter(columns.values())):
        table.add_row(_plain(heading), *(_plain(told[heading]) for told in columns.values()))
    return table


def _plain(words: str) -> Text:
    return Text(words.replace("`", ""))
