"""JSON by the interpreter's own accelerator alone.

The `json` package brings `re` and `enum` along, which take as long to import as Python takes to
start. The two types in C that do its work are in every CPython.
"""

from _json import encode_basestring, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITESPACE = " \t\n\r"


class _Reading:
    """What `json.JSONDecoder()` tells its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float  # "NaN" and the infinities
    memo: "dict[str, str]" = {}  # noqa: RUF012


_scan = make_scanner(_Reading)  # type: ignore[arg-type]


def loads(text: str) -> "Any":
    """The value in `text`. Raises ValueError."""
    start = len(text) - len(text.lstrip(_WHITESPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no JSON value at character {stop.value}") from None
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None
    if text[end:].strip(_WHITESPACE):
        raise ValueError(f"more than one JSON value: the first ends at character {end}")
    return value


def dumps(value: "Any") -> bytes:
    """`value` as JSON. Raises TypeError and ValueError for what JSON can't say."""
    encode = make_encoder({}, _refuse, encode_basestring, None, ":", ",", False, False, False)
    return "".join(encode(value, 0)).encode()


def _refuse(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} is not JSON")
