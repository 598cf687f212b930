"""Shell completion of domains, models, recipes and datasets."""

from __future__ import annotations

from glob import escape, glob

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a completion script for SHELL: commands, options, domains, models and recipes.

    \b
    bash:  echo 'eval "$(cgpipe completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(cgpipe completion zsh)"' >> ~/.zshrc
    fish:  cgpipe completion fish > ~/.config/fish/completions/cgpipe.fish
    """
    from cgpipe.cli.terminal import show

    kind = get_completion_class(shell)
    assert kind is not None
    show(kind(ctx.find_root().command, {}, "cgpipe", "_CGPIPE_COMPLETE").source())


def targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Domains that a model translates to, each with the pairs."""
    return _pairs("target", incomplete)


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Domains that a model takes."""
    return _pairs("source", incomplete)


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models; if none matches, files."""
    from cgpipe.models import list_models

    named = {entry.name: entry.card.pair for entry in list_models() if entry.card}
    return _beginning(named, incomplete) or [CompletionItem(incomplete, type="file")]


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """TOML files, here and one folder down; if there are none, any file."""
    found = glob(f"{escape(incomplete)}*.toml") + glob(f"{escape(incomplete)}*/*.toml")
    return [CompletionItem(path) for path in sorted(found)] or [CompletionItem(incomplete, type="file")]


def datasets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Datasets that can be fetched by name."""
    from cgpipe.data.download import DATASETS

    return _beginning({name: " and ".join(known.domains) for name, known in DATASETS.items()}, incomplete)


def _pairs(side: str, incomplete: str) -> list[CompletionItem]:
    from cgpipe.models import list_models

    named: dict[str, list[str]] = {}
    for card in (entry.card for entry in list_models() if entry.card):
        named.setdefault(getattr(card, side), []).append(card.pair)
    return _beginning({name: ", ".join(dict.fromkeys(pairs)) for name, pairs in named.items()}, incomplete)


def _beginning(named: dict[str, str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text) for name, text in named.items() if name.startswith(incomplete)]
