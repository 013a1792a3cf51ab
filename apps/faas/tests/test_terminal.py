# SPDX-License-Identifier: Apache-2.0
"""What a user sees on a terminal, a pipe, and by the Tab key."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from api_server import ApiServer
from click.testing import CliRunner
from test_deployment import IDLE

from koren_faas import Site, terminal
from koren_faas.cli import main
from koren_faas.show import listing

Servers = dict[str, ApiServer]
ROWS = [("NAME", "STATUS", "TEXT"), ("a-long-name-of-it", "0/1 NOT READY", "도로 위 낙하물 " * 4)]


def test_a_table_is_as_wide_as_the_terminal_and_keeps_names_whole() -> None:
    assert "…" not in terminal.table(ROWS)
    for limit in (60, 45):
        _, row = terminal.table(ROWS, limit=limit).split("\n")
        assert row.startswith("a-long-name-of-it  ")
        assert row.endswith("…")
        # Syllables are two columns each.
        assert sum(2 if ord(one) > 0x1100 and one != "…" else 1 for one in row) <= limit
    assert "a-long-name-of-it" in terminal.table(ROWS, limit=10)


def test_colours_are_those_of_the_state_and_change_no_width() -> None:
    rows = [("NAME", "STATUS"), ("a", "2/2 READY"), ("b", "0/1 NOT READY"), ("c", "REFUSED")]
    painted = terminal.table(rows, colours=True)
    assert "\x1b[32m2/2 READY" in painted
    assert "\x1b[33m0/1 NOT READY" in painted
    assert "\x1b[31mREFUSED" in painted
    plain = re.sub(r"\x1b\[\d+m", "", painted)
    assert [line.rstrip() for line in plain.split("\n")] == terminal.table(rows).split("\n")


def test_many_requirements_take_little_room_unless_all_is_asked_for() -> None:
    pinned = tuple(f"package-{number}==1.{number}.0" for number in range(8))
    function = replace(IDLE, requirements=pinned)
    _, row = listing([function], wide=False).split("\n")
    assert "package-0, package-1, package-2 +5" in row
    _, row = listing([function], wide=True).split("\n")
    assert ", ".join(pinned) in row


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("function", "ls"), "hello\n"),
        (("function", "top"), "hello\n"),
        (("autoscale", "list"), "hello\n"),
        (("trigger", "mqtt", "list"), ""),
        (("trigger", "cronjob", "list"), ""),
        (("source", "mqtt", "ls"), ""),
        (("dlq", "list"), "letter-1\n"),
        (("event", "held"), ""),
    ],
)
def test_every_list_has_each_format(
    live_site: Site, servers: Servers, command: tuple[str, ...], names: str
) -> None:
    servers["seoul"].letters["letter-1"] = {
        **{"id": "letter-1", "function": "hello", "reason": "no", "attempts": 5, "time": "now"},
        **{"event": {"id": "e1"}, "bytes": 1},
    }

    def printed(*more: str) -> str:
        done = CliRunner().invoke(main, ["--site-dir", str(live_site.dir), *command, *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert printed("-o", "name") == names
    assert isinstance(json.loads(printed("-o", "json")), list)
    assert printed("-o", "yaml")
    assert printed("-o", "wide").splitlines()[0].split()[:1] == printed().splitlines()[0].split()[:1]


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _commands(one, (*path, name))
    else:
        yield " ".join(path), command


@pytest.mark.parametrize(("path", "command"), [*_commands(main, ("faas",))])
def test_each_help_has_an_example_that_can_be_typed(path: str, command: click.Command) -> None:
    done = CliRunner().invoke(main, [*path.split()[1:], "--help"])
    examples = re.findall(r"^ +\$ (.*)$", done.output, re.MULTILINE)
    assert examples, done.output
    for example in examples:
        typed = re.sub(r'^eval "\$\((.*)\)"$', r"\1", example)
        aliases = {path, path.replace(" list", " ls"), path.replace(" ls", " list")}
        aliases |= {path.replace("stats", "top")}
        begin = next((one for one in aliases if f"{typed} ".startswith(f"{one} ")), None)
        assert begin, (path, example)
        known = {option for one in command.params for option in one.opts}
        words = shlex.split(typed)
        words = words[: words.index("--")] if "--" in words else words
        assert {word for word in words if word.startswith("-")} <= known, example


def _completed(site: Site, words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("_FAAS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv("KOREN_SITE_DIR", str(site.dir))
    done = CliRunner().invoke(main, [], prog_name="faas", complete_var="_FAAS_COMPLETE")
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


def test_the_tab_key_completes_regions_and_functions_without_asking_a_region(
    live_site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (live_site.images / "hello").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    Path("faas.yaml").write_text("functions: {help: {}, other: {}}\n")
    assert _completed(live_site, "faas fun", monkeypatch) == ["function"]
    assert _completed(live_site, "faas function describe he", monkeypatch) == ["hello", "help"]
    assert _completed(live_site, "faas function ls --region s", monkeypatch) == ["seoul"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert f"_FAAS_COMPLETE={shell}_complete" in done.stdout


def _on_a_terminal(site: Site, *arguments: str, **environment: str) -> str:
    """What a command writes to a terminal of 70 columns."""
    code = "from koren_faas.cli import main; main(prog_name='faas')"
    paths = os.pathsep.join(filter(None, sys.path))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--site-dir", str(site.dir), *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, "COLUMNS": "70"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:
                break  # its end
            if not part:
                break
            written += part
    os.close(ours)
    process.wait(10)
    return written.decode()


def test_a_terminal_gets_colours_and_tables_that_fit_and_no_color_is_honoured(
    live_site: Site, servers: Servers
) -> None:
    painted = _on_a_terminal(live_site, "function", "ls", TERM="xterm")
    assert "\x1b[1mNAME" in painted
    plain = _on_a_terminal(live_site, "function", "ls", TERM="xterm", NO_COLOR="1")
    # It may have had to wait, which it has said and taken back.
    plain = re.sub(r"Waiting for .*\r\x1b\[K", "", plain)
    assert "\x1b[" not in plain
    rows = [line for line in plain.splitlines() if line.startswith(("NAME", "hello"))]
    assert len(rows) == 3
    assert "…" in rows[1]
    assert all(len(row) <= 70 for row in rows), rows


def test_what_takes_long_says_that_it_waits_and_cleans_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "_PATIENCE_S", 0.01)
    with terminal.patience("the regions"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with terminal.patience("the regions"):
        until = time.monotonic() + 10
        said = ""
        while "regions" not in said and time.monotonic() < until:
            said += capsys.readouterr().err
            time.sleep(0.01)
    assert said == "Waiting for the regions ..."
    assert capsys.readouterr().err == "\r\x1b[K"
