# SPDX-License-Identifier: Apache-2.0
"""`faas completion`, and the names that a shell can complete without asking a region."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from koren_faas import config
from koren_faas.errors import FaasError
from koren_faas.site import Site, default_dir


def complete_region(
    ctx: click.Context, option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """The site's regions."""
    site = _site(ctx)
    return _items(site.regions if site else (), begun)


def complete_function(
    ctx: click.Context, option: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Functions of the file here, and those that this machine has deployed."""
    names: set[str] = set()
    try:
        file = ctx.params.get("config") or Path(config.NAME)
        names |= set(config.Config.load(file).entries)
    except FaasError:
        pass  # a file that can't be read is told of by the command itself
    site = _site(ctx)
    if site is not None and site.images.is_dir():
        names |= {folder.name for folder in site.images.iterdir() if folder.is_dir()}
    return _items(names, begun)


def _site(ctx: click.Context) -> Site | None:
    try:
        return Site.load(ctx.find_root().params.get("site_dir") or default_dir())
    except (FaasError, json.JSONDecodeError):
        return None


def _items(names: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(begun)]


@click.command(epilog="\b\nExample:\n  $ eval \"$(faas completion bash)\"")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands, options, regions and functions.

    bash: put the example's line into ~/.bashrc. zsh: the same with zsh, into ~/.zshrc after compinit.
    fish: faas completion fish > ~/.config/fish/completions/faas.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "faas", "_FAAS_COMPLETE").source())
