# SPDX-License-Identifier: Apache-2.0
"""What others wrote is as its manifest says, and the page needs no inline script or style."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from koren_console import web
from koren_console.web.words import texts

WEB = Path(web.__file__).parent
VENDORED = [WEB / "static" / "vendor", Path(__file__).parent / "vendor"]
TEMPLATES = sorted((WEB / "templates").glob("*.html"))


@pytest.mark.parametrize("folder", VENDORED, ids=["page", "tests"])
def test_files_are_those_of_the_manifest(folder: Path) -> None:
    listed = {}
    for package in json.loads((folder / "manifest.json").read_text()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]) and package["licence"]
        assert package["package_integrity"].startswith("sha512-")
        listed.update(package["files"])
    assert set(listed) == {path.name for path in folder.iterdir()} - {"manifest.json"}
    for name, known in listed.items():
        digest = hashlib.sha512((folder / name).read_bytes()).digest()
        assert known["integrity"] == "sha512-" + base64.b64encode(digest).decode(), name


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_nothing_is_inline(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert "<style" not in text and not re.search(r"\s(style|on[a-z]+)=", text)
    assert "|safe" not in text


def test_each_text_is_in_both_languages_with_the_same_places() -> None:
    for key, (korean, *english) in texts().items():
        assert re.search("[가-힣]", korean) or key in ("col.cpu", "col.p50", "col.p95"), key
        places = set(re.findall(r"{(\w+)}", korean))
        assert english and all(set(re.findall(r"{(\w+)}", one)) - places <= set() for one in english[:1]), key
        assert places == set(re.findall(r"{(\w+)}", english[0])), key


def test_each_text_that_is_named_exists() -> None:
    named = set()
    for template in TEMPLATES:
        named.update(re.findall(r"\bt\('([^']+)'(?! *~)", template.read_text()))
    for module in WEB.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "t":
                named.update(one.value for one in node.args if isinstance(one, ast.Constant))
    assert len(named) > 150
    assert not named - set(texts())
