"""How long the tests with random inputs search, and of what.

In a normal run each searches a little, always along the same way, so that it fails only for a change.
With `KOREN_FUZZ=long` or `HYPOTHESIS_PROFILE=long` (`make fuzz`) it goes on for minutes, along another way
each time, and prints how a failure is seen again.
"""

import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = "long" in (os.environ.get("KOREN_FUZZ"), os.environ.get("HYPOTHESIS_PROFILE"))

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, -0.0, 2**53, 2**63, -(2**63) - 1, 10**400, 1e308, True]),
)
TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(), max_size=8),
    st.sampled_from(["", "\ud800", "\x00", "각".encode().decode(), "\u1100\u1161", "x" * 1025, "../#+/", "9" * 5000]),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
TIMES = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.builds(
        "{}-{}T{}{}".format,
        st.sampled_from(["0000", "0001", "1969", "2026", "9999", "10000"]),
        st.sampled_from(["01-01", "02-29", "12-31", "13-01"]),
        st.sampled_from(["00:00:00", "23:59:59", "23:59:60", "24:00:00", "12:00:00.123456789"]),
        st.sampled_from(["Z", "+00:00", "-23:59", "+23:59", "+24:00", "-14:00", ""]),
    ),
    JSON,
)


def search(short: int, long: int, **more: int) -> settings:
    """Hypothesis' settings for so many examples."""
    return settings(
        max_examples=long if LONG else short,
        derandomize=not LONG,
        database=None,
        print_blob=LONG,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": st.text(min_size=1, max_size=9), "source": st.just("cctv-seoul-01")},
    optional={
        "type": st.just("kr.koren.traffic.accident.detected") | TEXTS,
        "subject": st.text(min_size=1, max_size=9) | JSON,
        "time": TIMES,
        "region": st.just("seoul") | JSON,
        "sequence": st.integers(0, 2**53) | st.just("9" * 5000) | JSON,
        "hold": st.booleans() | JSON,
        "data": JSON,
        "data_base64": st.just("aGk=") | TEXTS,
        "datacontenttype": TEXTS,
    },
)
"""Events, most of them with one attribute or another wrong."""


def _written(value: object, encoding: str, ascii: bool) -> bytes:
    text = json.dumps(value, ensure_ascii=ascii)
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")


MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        _written,
        EVENTS | JSON,
        st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-be", "euc-kr"]),
        st.booleans(),
    ),
    st.builds(
        lambda depth, opening, closing, more: (
            b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":'
            + opening * depth
            + b"1"
            + closing * depth
            + more
        ),
        st.one_of(st.integers(0, 300), st.integers(300, 1200), st.integers(9_000, 60_000)),
        *(st.just(one) for one in (b"[", b"]")),
        st.sampled_from(
            [b"}", b"", b"}}", b',"subject":"\\u1100\\u1161"}', b',"x":1e999}', b',"x":-1E400,"y":"\\u00e9"}']
        ),
    ),
)
"""Messages as they may come from anybody."""
