"""Where a text may be cut: between graphemes, what readers take for one character.

The rules are those of Unicode's annex 29, told from the categories that Python knows. Where those
say less than the annex, letters are held together: a cut may come earlier than it had to.
"""

from unicodedata import category, combining

_ZERO_WIDTH_JOINER = "\u200d"
# Extend what stands before them, but have a category that says nothing of it: the zero width
# non-joiner, Thai and Lao AM, voiced sound marks, skin tones and tags.
_EXTENDING = (
    ("\u200c", "\u200c"),
    ("\u0e33", "\u0e33"),
    ("\u0eb3", "\u0eb3"),
    ("\uff9e", "\uff9f"),
    ("\U0001f3fb", "\U0001f3ff"),
    ("\U000e0020", "\U000e007f"),
)
_MARKS = ("Mn", "Me", "Mc")
# Stand before what they belong to: number signs and the like, and a few Indic letters.
_PREPENDED = (
    ("\u0600", "\u0605"),
    ("\u06dd", "\u06dd"),
    ("\u070f", "\u070f"),
    ("\u0890", "\u0891"),
    ("\u08e2", "\u08e2"),
    ("\u0d4e", "\u0d4e"),
    ("\U000110bd", "\U000110bd"),
    ("\U000110cd", "\U000110cd"),
    ("\U000111c2", "\U000111c3"),
    ("\U0001193f", "\U0001193f"),
    ("\U00011941", "\U00011941"),
    ("\U00011a3a", "\U00011a3a"),
    ("\U00011a84", "\U00011a89"),
    ("\U00011d46", "\U00011d46"),
    ("\U00011f02", "\U00011f02"),
)
_VIRAMA = 9


def boundary(text: str, index: int) -> int:
    """The last place in `text`, `index` at the most, that is between two graphemes."""
    if index >= len(text):
        return len(text)
    while index > 0 and _joined(text, index):
        index -= 1
    return index


def _joined(text: str, index: int) -> bool:
    before, after = text[index - 1], text[index]
    if before == _ZERO_WIDTH_JOINER or after == _ZERO_WIDTH_JOINER:
        return True
    if before.isascii() and after.isascii():
        return before == "\r" and after == "\n"
    if category(after) in _MARKS or _in(after, _EXTENDING) or _in(before, _PREPENDED):
        return True
    # A virama binds the consonant that follows it.
    if combining(before) == _VIRAMA:
        return True
    if _is_regional(before) and _is_regional(after):
        # They pair up to flags from the first of their row.
        first = index
        while first > 0 and _is_regional(text[first - 1]):
            first -= 1
        return (index - first) % 2 == 1
    return _jamo(before) + _jamo(after) in (
        "LL",
        "LV",
        "LB",
        "LS",
        "VV",
        "VT",
        "BV",
        "BT",
        "ST",
        "TT",
    )


def _jamo(letter: str) -> str:
    """A leading, vowel or trailing jamo, or a syllable that ends in a vowel (B) or not (S)."""
    if "가" <= letter <= "힣":
        return "S" if (ord(letter) - ord("가")) % 28 else "B"
    for kind, first, last in (
        ("L", "\u1100", "\u115f"),
        ("L", "\ua960", "\ua97c"),
        ("V", "\u1160", "\u11a7"),
        ("V", "\ud7b0", "\ud7c6"),
        ("T", "\u11a8", "\u11ff"),
        ("T", "\ud7cb", "\ud7fb"),
    ):
        if first <= letter <= last:
            return kind
    return " "


def _is_regional(letter: str) -> bool:
    return "\U0001f1e6" <= letter <= "\U0001f1ff"


def _in(letter: str, ranges: tuple[tuple[str, str], ...]) -> bool:
    return any(first <= letter <= last for first, last in ranges)
