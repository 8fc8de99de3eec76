"""Text that strangers wrote (identifiers, values, server messages), made safe to show; figures made short."""

from __future__ import annotations

import math
import unicodedata

from harness.logs import redact

# Control, format (bidirectional overrides among them) and surrogate characters: they change how their neighbours
# look, or are no characters at all.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})
_LAST_BMP = 0xFFFF

# Stands where there is no figure.
NOTHING = "\u2013"


def visible(text: str, *, multiline: bool = False) -> str:
    """The same text with every unseen character written as an escape, and without passwords.

    Args:
        text: anything.
        multiline: leave line ends and tabs as they are.
    """
    kept = "\n\t" if multiline else ""
    return "".join(_escape(char) if char not in kept else char for char in redact(text))


def _escape(char: str) -> str:
    if unicodedata.category(char) not in _UNSEEN:
        return char
    code = ord(char)
    if code < 0x100:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code <= _LAST_BMP else f"\\U{code:08x}"


def without_surrogates(text: str) -> str:
    """The same text with lone surrogates, which UTF-8 can't hold, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def finite(value: float | None, digits: int = 6) -> float | None:
    """The number rounded to ``digits``, or None for what JSON has no number for (infinities, NaN)."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None


def show_ms(value: float | None) -> str:
    """Milliseconds with a unit that reads well: ``0.42 ms``, ``12.3 ms``, ``1.25 s``; a dash for None."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def show_s(value: float | None) -> str:
    """Seconds: ``0.42 s``, ``12.3 s``, ``2 min 05 s``; a dash for None."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value >= 120:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds:02d} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def show_count(value: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: ``1 source``, ``1,000 sources``."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"
