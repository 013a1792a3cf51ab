# SPDX-License-Identifier: Apache-2.0
"""`faas.yaml`: functions and all that a deploy is told of them, in a file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from koren_faas import http_triggers
from koren_faas.cron_triggers import CronTrigger
from koren_faas.durations import seconds_of
from koren_faas.errors import ConfigError, FunctionError, SiteError, TriggerError
from koren_faas.function import Function
from koren_faas.placing import Trigger
from koren_faas.runtimes import IMAGE
from koren_faas.site import Site

NAME = "faas.yaml"
"""The file that commands read unless they are told another."""

_REGION = "{region}"
_ATTRIBUTES = {
    "from-file": "source",
    "from-archive": "source",
    "timeout": "timeout_s",
    "delay": "delay_s",
    "batch-window": "batch_window_s",
    "incident-limit": "incident_limit_s",
}
_TRIGGER_ATTRIBUTES = {"starting-deadline": "starting_deadline_s", "async": "is_async"}
_TRIGGERS = ("cron", "http")
_DURATIONS = ("delay", "batch-window")
_PATHS = ("source", "dependencies")
_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "keys with their values",
}

# Of a text, and of `<<`.
_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A function as a file describes it.

    Attributes:
        name: the function's name.
        options: attributes of `Function` to values.
        regions: names of the regions that it belongs to; none means every edge.
        described: kinds of triggers to their names, and these to keys and values.
        lines: the file's name and a line of it, for each option that the file has, and for the function itself
            under the empty text.
    """

    name: str
    options: Mapping[str, Any]
    regions: tuple[str, ...]
    lines: Mapping[str, str]
    described: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    def changed(self, options: Mapping[str, Any], regions: Iterable[str] = ()) -> Entry:
        """The same with other values of some options, and of the regions if there are any."""
        return replace(
            self,
            options={**self.options, **options},
            regions=tuple(regions) or self.regions,
            # What another value is wrong with is no line's fault.
            lines={key: line for key, line in self.lines.items() if key not in options},
        )

    def wanted(self, site: Site, regions: Iterable[str] = ()) -> dict[str, Function]:
        """The function as it is to be in each of its regions, by the region's name.

        Args:
            regions: only these; the function may belong to none of them.

        Raises:
            ConfigError: a value can't be accepted, or the site has no such region.
            SiteError: the site has no region of a name in `regions`, or no edge at all.
        """
        only = {place.name for place in site.pick(regions)}
        try:
            places = site.pick(self.regions) if self.regions else site.edges
        except SiteError as error:
            raise ConfigError(f"{self._where('regions')}: {error}") from error
        if not places:
            raise SiteError(f"site {site.name} has no edge to place {self.name} in: name its regions")
        return {one.name: self.function(one.name) for one in places if one.name in only}

    def function(self, region: str) -> Function:
        """The function as it is in a region.

        Raises:
            ConfigError: a value can't be accepted; the message names the line and the key.
        """
        function = self.local(region)
        try:
            return function.for_region(region)
        except FunctionError as error:
            raise self._refused(error) from error

    def local(self, region: str | None = None) -> Function:
        """The function as this machine runs it for a region, whose events its topic need not match.

        Args:
            region: what `{region}` stands for; by default the first that the file names, else `local`.

        Raises:
            ConfigError: a value can't be accepted; the message names the line and the key.
        """
        region = region or next(iter(self.regions), "local")
        options = dict(self.options)
        needed: tuple[str, ...] = ("handler", "source")
        if options.get("runtime") == IMAGE:
            needed = () if "image" in options else ("image",) if "source" not in options else ()
        for key in needed:
            if key not in options:
                raise ConfigError(f"{self._where('')} has no {_key(key)}: add it")
        for key in _PATHS:
            path = options.get(key)
            if path is not None and not path.exists():
                raise ConfigError(
                    f"{self._where(key)}: {path} does not exist; a path is relative to the folder of the file"
                )
        options["env"] = {
            name: value.replace(_REGION, region) for name, value in options.get("env", {}).items()
        }
        options["secrets"] = tuple(
            name.replace(_REGION, region) for name in options.get("secrets", ())
        )
        try:
            for key in _DURATIONS:
                if isinstance(text := options.get(_ATTRIBUTES[key]), str):
                    options[_ATTRIBUTES[key]] = seconds_of(key, text)
            return Function(name=self.name, **options)
        except FunctionError as error:
            raise self._refused(error) from error

    def triggers(self) -> tuple[Trigger, ...]:
        """The triggers that are described beside the function.

        Raises:
            ConfigError: a value can't be accepted; the message names the line.
        """
        made: list[Trigger] = []
        for kind, its in self.described.items():
            for name, keys in its.items():
                try:
                    made.append(self._trigger(kind, name, keys))
                except TriggerError as error:
                    raise ConfigError(f"{self._where(kind)}.{name}: {error}") from error
        return tuple(made)

    def _trigger(self, kind: str, name: str, keys: Mapping[str, Any]) -> Trigger:
        its: dict[str, Any] = {
            _TRIGGER_ATTRIBUTES.get(key, key.replace("-", "_")): tuple(value) if isinstance(value, list) else value
            for key, value in keys.items()
        }
        if kind == "http":
            return http_triggers.described(name, self.name, **its)
        if "schedule" not in its:
            raise ConfigError(f"{self._where(kind)}.{name} has no schedule: add it")
        return CronTrigger(name=name, function=self.name, **its | {"payload": keys.get("payload")})

    def _refused(self, error: FunctionError) -> ConfigError:
        problem = str(error).removeprefix(f"function {self.name!r}: ")
        return ConfigError(f"{self._where(self._told_of(problem))}: {problem}")

    def _told_of(self, problem: str) -> str:
        """The option that a problem names, empty when it names none of the file's."""
        told = (key for key in self.lines if key and re.search(rf"\b{_key(key)}\b", problem))
        return next(told, "")

    def _where(self, option: str) -> str:
        line = self.lines.get(option) or self.lines[""]
        return f"{line}: functions.{self.name}" + (f".{_key(option)}" if option else "")


@dataclass(frozen=True, slots=True)
class Config:
    """The functions of a file.

    Attributes:
        file: the file.
        entries: its functions by name, in its order.
    """

    file: Path
    entries: Mapping[str, Entry]

    @classmethod
    def load(cls, file: Path, environment: str | None = None) -> Config:
        """Read a file, for one of its environments if one is named.

        Raises:
            ConfigError: it can't be read, or is not as the schema says; the message has a line for each problem.
        """
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                f"{file} does not exist: make one with 'faas init NAME', or name yours with --config"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} can't be read: {error}") from error
        content, lines = _parse(file, text)
        problems = sorted(set(_problems(content, lines)))
        if problems:
            raise ConfigError("\n".join(f"{file}:{line}: {problem}" for line, problem in problems))
        return cls(file, dict(_entries(file, content, lines, environment)))

    def pick(self, names: Iterable[str] = ()) -> tuple[Entry, ...]:
        """The functions of these names, or all of them when there are none.

        Raises:
            ConfigError: the file has no function of a name.
        """
        wanted = list(dict.fromkeys(names)) or list(self.entries)
        unknown = [name for name in wanted if name not in self.entries]
        if unknown:
            raise ConfigError(
                f"{self.file} has no function {', '.join(unknown)}; it has: {', '.join(self.entries)}"
            )
        return tuple(self.entries[name] for name in wanted)

    def only(self, name: str | None) -> Entry:
        """The function of this name, or the file's only one.

        Raises:
            ConfigError: there is none, or several and no name.
        """
        if name is None and len(self.entries) > 1:
            raise ConfigError(
                f"{self.file} has {len(self.entries)} functions: name one of {', '.join(self.entries)}"
            )
        return self.pick([name] if name else ())[0]


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    text = files("koren_faas").joinpath("faas.schema.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _parse(file: Path, text: str) -> tuple[Any, dict[Place, int]]:
    """The file's content, and the line of each key and item."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {(): 1}
        if node is not None:
            _note_lines(file, node, (), lines)
        return (None if node is None else loader.construct_document(node)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not YAML: {error.problem or error.context}") from error
    except RecursionError:
        raise ConfigError(f"{file}: a part of it holds itself: leave out that alias") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from error
    finally:
        loader.dispose()


def _note_lines(file: Path, node: yaml.Node, place: Place, lines: dict[Place, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = (*place, str(key.value))
            if key.tag not in _KEYS:
                raise ConfigError(
                    f"{file}:{key.start_mark.line + 1}: {_dotted(at)}: YAML does not read this key as a"
                    " text; put it in quotes"
                )
            if at in lines:
                raise ConfigError(
                    f"{file}:{key.start_mark.line + 1}: {_dotted(at)}: is there twice, first in line {lines[at]}"
                )
            lines[at] = key.start_mark.line + 1
            _note_lines(file, value, at, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*place, index] = item.start_mark.line + 1
            _note_lines(file, item, (*place, index), lines)


def _problems(content: Any, lines: Mapping[Place, int]) -> Iterator[tuple[int, str]]:
    # Here, since it takes longer to import than most commands take.
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema()).iter_errors(content):
        place = tuple(error.absolute_path)
        for at, problem in _told(error, place):
            yield _line(lines, at), f"{_dotted(at)}: {problem}" if at else problem


def _told(error: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """A violation of the schema in the words of who writes the file: where, and what."""
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                yield (*place, str(key)), f"unknown key; {remedy}"
    elif error.validator == "type":
        kinds = error.validator_value
        names = [_TYPES[one] for one in ([kinds] if isinstance(kinds, str) else kinds)]
        shown = json.dumps(error.instance, ensure_ascii=False, default=str)
        quotes = "string" in kinds and not isinstance(error.instance, dict | list | None)
        remedy = "; put it in quotes" if quotes else ""
        yield place, f"{shown[:60]} must be {' or '.join(names)}{remedy}"
    elif error.validator == "required":
        yield place, "the key functions is missing: it names the functions"
    elif error.validator in ("minLength", "minItems", "minProperties"):
        yield place, "it is empty: give it a value, or leave it out"
    else:
        yield place, error.message


def _entries(
    file: Path, content: Mapping[str, Any], lines: Mapping[Place, int], environment: str | None
) -> Iterator[tuple[str, Entry]]:
    known = content.get("environments", {})
    if environment is not None and environment not in known:
        has = f"it has: {', '.join(known)}" if known else "it has none; add the key environments"
        raise ConfigError(f"{file} has no environment {environment}; {has}")
    layers: list[tuple[Place, Mapping[str, Any]]] = [((), content)]
    if environment is not None:
        layers.append((("environments", environment), known[environment]))
        for name in known[environment].get("functions", {}):
            if name not in content["functions"]:
                at = ("environments", environment, "functions", name)
                raise ConfigError(
                    f"{file}:{lines[at]}: {_dotted(at)}: there is no such function below functions"
                )
    for name in content["functions"]:
        options: dict[str, Any] = {}
        its_lines = {"": f"{file}:{_line(lines, ('functions', name))}"}
        for place, layer in layers:
            for part in (("defaults",), ("functions", name)):
                said = layer
                for key in part:
                    said = said.get(key, {})
                for key, value in said.items():
                    attribute = _ATTRIBUTES.get(key, key.replace("-", "_"))
                    if attribute == "env":
                        value = {**options.get("env", {}), **value}
                    elif attribute in _TRIGGERS:
                        before = options.get(attribute, {})
                        value = {**before, **{name: {**before.get(name, {}), **keys} for name, keys in value.items()}}
                    options[attribute] = value
                    at = (*place, *part, key)
                    its_lines[attribute] = f"{file}:{_line(lines, at)}"
        regions = options.pop("regions", ())
        described = {kind: options.pop(kind, {}) for kind in _TRIGGERS}
        taken = {key: _value(file, key, value) for key, value in options.items()}
        yield name, Entry(name, taken, tuple(regions), its_lines, described)


def _value(file: Path, attribute: str, value: Any) -> Any:
    if attribute in _PATHS:
        return file.parent / value
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return tuple(value)
    kind = next(field.type for field in fields(Function) if field.name == attribute)
    return value if kind == "int" else str(value)


def _key(attribute: str) -> str:
    found = (key for key, one in _ATTRIBUTES.items() if one == attribute)
    return next(found, attribute.replace("_", "-"))


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a place, or of what it is in, where it comes from an alias."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _dotted(place: Place) -> str:
    return ".".join(str(part) for part in place)
