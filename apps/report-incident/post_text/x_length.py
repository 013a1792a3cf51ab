"""The length of a text as X counts it.

X publishes its rules as the configuration of its library twitter-text, here version 3: most letters
of Latin and the alphabets next to it count once, all others twice, an emoji twice however many code
points make it, and a link 23 times whatever its length. All of that is counted in NFC.

Which names may end a domain changes, and X alone knows. What may be a link, but ends in none of the
names below, counts as a link or as its letters, whichever is more: no text is longer for X than it
is here.
"""

import re
from unicodedata import normalize

LINK = 23

# Letters of other alphabets that become ASCII ones in lower case are no part of a domain.
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
# Code points that count twice.
_DOUBLE = re.compile(r"[^\u0000-\u10ff\u2000-\u200d\u2010-\u201f\u2032-\u2037]")


def weight(text: str) -> int:
    """The length of `text` as X counts it, or more where only X can tell."""
    text = normalize("NFC", text).translate(_LOWER)
    total = at = 0
    for link in _LINK.finditer(text):
        total += _letters(text[at : link.start()])
        total += LINK if link["sure"] else _perhaps(link[0])
        at = link.end()
    return total + _letters(text[at:])


def _perhaps(link: str) -> int:
    if link.count(".") < 2 and link.isascii():
        return max(LINK, _letters(link))
    # Any part of it may be the link, and the others count as letters.
    return _letters(link) + LINK - _SHORTEST


def _letters(text: str) -> int:
    if text.isascii():
        return len(text)
    rest, emoji = _EMOJI.subn("", text)
    return 2 * emoji + len(rest) + len(_DOUBLE.findall(rest))


def _class(points: str) -> str:
    """A regular expression's class of code points and ranges of them, given in hexadecimal."""
    letters = re.sub("[0-9a-f]+", lambda point: chr(int(point[0], 16)), points)
    return f"[{letters.replace(' ', '')}]"


def _regional(pattern: str) -> str:
    """`pattern` with regional indicators in place of its capital letters."""
    return "".join(chr(ord(p) - ord("A") + 0x1F1E6) if p.isupper() else p for p in pattern)


_SKIN = _class("1f3fb-1f3ff")
_WITH_SKIN = _class(
    "261d 26f7 26f9 270a-270d 1f385 1f3c2-1f3c4 1f3c7 1f3ca-1f3cc 1f442-1f443 1f446-1f450"
    " 1f466-1f469 1f46e 1f470-1f478 1f47c 1f481-1f483 1f485-1f487 1f4aa 1f574-1f575 1f57a 1f590"
    " 1f595-1f596 1f645-1f647 1f64b-1f64f 1f6a3 1f6b4-1f6b6 1f6c0 1f6cc 1f918-1f91c 1f91e-1f91f"
    " 1f926 1f930-1f939 1f93d-1f93e 1f9b5-1f9b6 1f9b8-1f9b9 1f9d1-1f9dd"
)
# Text unless a variation selector follows.
_WITH_SELECTOR = _class(
    "a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 23cf 23ed-23ef 23f1-23f2"
    " 23f8-23fa 24c2 25aa-25ab 25b6 25c0 25fb-25fe 2600-2604 260e 2611 2614-2615 2618 261d 2620"
    " 2622-2623 2626 262a 262e-262f 2638-263a 2640 2642 2648-2653 265f-2660 2663 2665-2666 2668"
    " 267b 267f 2692-2697 2699 269b-269c 26a0-26a1 26aa-26ab 26b0-26b1 26bd-26be 26c4-26c5 26c8"
    " 26cf 26d1 26d3-26d4 26e9-26ea 26f0-26f5 26f7-26fa 26fd 2702 2708-2709 270c-270d 270f 2712"
    " 2714 2716 271d 2721 2733-2734 2744 2747 2757 2763-2764 27a1 2934-2935 2b05-2b07 2b1b-2b1c"
    " 2b50 2b55 3030 303d 3297 3299 1f004 1f170-1f171 1f17e-1f17f 1f202 1f21a 1f22f 1f237 1f321"
    " 1f324-1f32c 1f336 1f37d 1f396-1f397 1f399-1f39b 1f39e-1f39f 1f3cb-1f3ce 1f3d4-1f3df 1f3f3"
    " 1f3f5 1f3f7 1f43f 1f441 1f4fd 1f549-1f54a 1f56f-1f570 1f573-1f579 1f587 1f58a-1f58d 1f590"
    " 1f5a5 1f5a8 1f5b1-1f5b2 1f5bc 1f5c2-1f5c4 1f5d1-1f5d3 1f5dc-1f5de 1f5e1 1f5e3 1f5e8 1f5ef"
    " 1f5f3 1f5fa 1f6cb 1f6cd-1f6cf 1f6e0-1f6e5 1f6e9 1f6f0 1f6f3"
)
_OF_TWO_SEXES = _class(
    "1f3c3-1f3c4 1f3ca 1f46e 1f471 1f473 1f477 1f481-1f482 1f486-1f487 1f645-1f647 1f64b"
    " 1f64d-1f64e 1f6a3 1f6b4-1f6b6 1f926 1f935 1f937-1f939 1f93d-1f93e 1f9b8-1f9b9 1f9d6-1f9dd"
)
_AT_WORK = _class(
    "1f33e 1f373 1f393 1f3a4 1f3a8 1f3eb 1f3ed 1f4bb-1f4bc 1f527 1f52c 1f680 1f692 1f9b0-1f9b3"
)
_FLAGS = _regional(
    "A[CDEFGILMOQRSTUWXZ]|B[ABDEFGHIJLMNOQRSTVWYZ]|C[ACDFGHIKLMNORUVWXYZ]|D[EGJKMOZ]"
    "|E[ACEGHRSTU]|F[IJKMOR]|G[ABDEFGHILMNPQRSTUWY]|H[KMNRTU]|I[CDELMNOQRST]|J[EMOP]"
    "|K[EGHIMNPRWYZ]|L[ABCIKRSTUVY]|M[ACDEFGHKLMNOPQRSTUVWXYZ]|N[ACEFGILOPRUZ]|OM"
    "|P[AEFGHKLMNRSTWY]|QA|R[EOSUW]|S[ABCDEGHIJKLMNORSTVXYZ]|T[ACDFGHJKLMNORTVWZ]|U[AGMNSYZ]"
    "|V[ACEGINU]|W[FS]|XK|Y[ET]|Z[AMW]"
)
# Of the emoji that several make, the usual ones: the others count as their parts.
_EMOJI = re.compile(
    "|".join(
        (
            r"[#*0-9]\ufe0f?\u20e3",
            rf"{_OF_TWO_SEXES}{_SKIN}?\u200d[♀♂]\ufe0f",
            rf"[👨👩]{_SKIN}?\u200d(?:{_AT_WORK}|[⚕⚖✈]\ufe0f)",
            r"(?:[👨👩]\u200d)?[👨👩]\u200d(?:👧\u200d[👦👧]|👦\u200d👦|[👦👧])",
            rf"{_WITH_SKIN}{_SKIN}",
            rf"{_WITH_SELECTOR}\ufe0f",
            _FLAGS,
        )
    )
)

# A domain's labels as all know them, and as X takes them.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ANY_LABEL = r"[a-z0-9\u00c0-\u024f\u0253-\u02bb\u0300-\u036f\u1e00-\u1eff-]+"
_LINK = re.compile(
    # It ends in a name that X knows, and nothing before or behind it makes it anything else.
    rf"(?P<sure>(?<![\w@＠$#＃./-])(?:https?://)?(?:{_LABEL}\.)+"
    r"(?:com|net|org|info|edu|gov|kr|jp|eu|io|dev|app)(?![\w@+.:-])"
    r"(?:/(?:[a-z0-9_/=#+~%&;:,.!*'|-]*[a-z0-9_/=#+-])?)?"
    r"(?:\?[a-z0-9_/=#+~%&;:,.!*'|$-]*[a-z0-9_/=#&-])?)"
    # Or it may be one.
    rf"|(?:https?://)?(?:{_ANY_LABEL}\.)+(?:[a-z]+|[^\W\d_])"
    r"|https?://",
)
_SHORTEST = len("a.kr")
