"""The commands of the documents do what is said there, on this site instead of the one named local."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SITE_DIR, faas

EXAMPLES = ["README.md", "apps/faas/README.md", "docs/tutorial/first-function.md"]
# In other languages: the same commands and code.
TRANSLATED = {
    "README.md": "README.ko.md",
    "docs/tutorial/first-function.md": "docs/tutorial/first-function.ko.md",
    "docs/tutorial/first-camera.md": "docs/tutorial/first-camera.ko.md",
}
DOCUMENTS = [
    *EXAMPLES,
    "docs/operations.md",
    "docs/how-to/backup.md",
    "docs/how-to/bundle.md",
    "docs/how-to/troubleshoot.md",
]

# What a document tells of functions is run in the order in which it is there.
OF_FUNCTIONS = tuple(f"faas {verb} " for verb in ("function", "init", "run", "test", "apply", "diff"))

Run = Callable[[str], str]


def blocks(document: str, language: str) -> list[str]:
    """The document's fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[str]:
    """What the document's blocks tell to type, a command each."""
    typed = "".join(blocks(document, "sh")).replace("\\\n", "")
    shown = "".join(blocks(document, "console"))
    return typed.splitlines() + re.findall(r"^\$ (.*)$", shown, re.MULTILINE)


@pytest.fixture
def run(site: dict[str, Any], tmp_path: Path) -> Run:
    """Runs a command as it is written, with this site's places, where the documents' examples lie."""
    for document in DOCUMENTS:
        for code in blocks(document, "python"):
            path = tmp_path / code.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{site['bundle']}/kubernetes/bin:{os.environ['PATH']}",
        "KOREN_SITE_DIR": str(SITE_DIR),
    }
    net = ".".join(site["central_broker"].split(".")[:2])

    def ran(command: str) -> str:
        here = command.replace(".venv/bin/", "").replace(".state/local", str(SITE_DIR)).replace("10.90.", f"{net}.")
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{here}: {done.stderr}"
        return done.stdout

    return ran


def test_every_command_is_tried() -> None:
    tried = (*OF_FUNCTIONS, "curl -G --cacert .state/local/")
    # `tests/run`, its molecule scenarios and test_region_lost.py call these with sites of their own.
    elsewhere = ("make up demo", "make test", "make bundle ", "make up ARGS='-e bundle_archive=")
    elsewhere += ("ansible-playbook playbooks/restore.yml ", "restic -r ")
    unknown = [
        command
        for document in DOCUMENTS
        for command in commands(document)
        if not command.removeprefix(".venv/bin/").startswith(tried + elsewhere)
    ]
    assert unknown == []


@pytest.mark.parametrize("document", TRANSLATED)
def test_a_translation_has_the_same_commands_and_code(document: str) -> None:
    for language in ("sh", "console", "python", "yaml"):
        assert blocks(TRANSLATED[document], language) == blocks(document, language)


@pytest.mark.parametrize("document", EXAMPLES)
def test_the_example_of_a_function_works(document: str, run: Run) -> None:
    shown = "".join(blocks(document, "console"))
    try:
        for command in commands(document):
            if not command.removeprefix(".venv/bin/").startswith(OF_FUNCTIONS):
                continue
            printed = run(command)
            if " ls" in command:
                assert re.search(r"^hello .* 0/0 IDLE ", printed, re.MULTILINE)
            if " call " in command or " run " in command or " apply " in command:
                assert f"{command}\n{printed}" in shown
    finally:
        # A document's last command may delete it.
        for name in {"hello", "greet"} & set(faas("function", "ls", "-o", "name").split()):
            faas("function", "delete", name)


def test_one_query_shows_every_host(run: Run, site: dict[str, Any]) -> None:
    (query,) = (command for command in commands("docs/how-to/troubleshoot.md") if command.startswith("curl"))
    printed = run(query)
    for region in site["regions"].values():
        for node in region["nodes"]:
            assert f'"{node}"' in printed


def test_hosts_and_clusters_are_reached(run: Run) -> None:
    table = re.findall(
        r"^\| [^|]* \| `((?:ssh|kubectl) [^`]*)` \|$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    assert len(table) == 3
    gateway, host, cluster = table
    assert "events-to-edges" in run(gateway)
    assert run(f"{host} hostname") == "seoul-cp\n"
    assert "kube-apiserver-seoul-cp" in run(cluster)
