"""Splitting the text of an instruction: flags in front, words, `name=value` pairs, JSON arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from ci_plugins.dockerfile.expand import SPACE

BLANKS: Final = re.compile(r"[\t\v\f\r ]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of an instruction and where in its logical line it begins."""

    text: str
    offset: int


def split_command(text: str, offset: int) -> tuple[Word, Word]:
    """The keyword and the rest, trimmed, of text that starts at `offset` of its line."""
    start = offset + len(text) - len(text.lstrip(SPACE))
    parts = BLANKS.split(text.strip(SPACE), maxsplit=1)
    rest = parts[1] if len(parts) == 2 else ""
    return Word(parts[0], start), trimmed(rest, start + len(text.strip(SPACE)) - len(rest))


def trimmed(text: str, offset: int) -> Word:
    return Word(text.strip(SPACE), offset + len(text) - len(text.lstrip(SPACE)))


def split_flags(rest: Word) -> tuple[tuple[Word, ...], Word]:
    """Leading `--name` and `--name=value` words, quotes and backslashes taken off; a lone `--` ends them."""
    text, flags, position = rest.text, [], 0
    while True:
        while position < len(text) and text[position] in SPACE:
            position += 1
        if not text.startswith("--", position):
            break
        flag, end = _flag(text, position)
        if flag == "--":
            position = end
            break
        flags.append(Word(flag, rest.offset + position))
        position = end
    return tuple(flags), trimmed(text[position:], rest.offset + position)


def _flag(text: str, position: int) -> tuple[str, int]:
    quote = ""
    flag: list[str] = []
    while position < len(text):
        char = text[position]
        if not quote and char in SPACE:
            break
        position += 1
        if char == "\\":
            flag.append(text[position : position + 1])
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            flag.append(char)
    return "".join(flag), position


def blank_separated(rest: Word) -> tuple[Word, ...]:
    """Words between blanks; quotes mean nothing here."""
    return tuple(_blank_separated(rest))


def _blank_separated(rest: Word) -> Iterator[Word]:
    position = 0
    for match in [*BLANKS.finditer(rest.text), None]:
        end = match.start() if match else len(rest.text)
        if end > position:
            yield Word(rest.text[position:end], rest.offset + position)
        position = match.end() if match else end


def quoted_words(rest: Word, escape: str) -> tuple[Word, ...]:
    """Words between spaces outside of quotes; quotes and escapes stay in them, they come off when expanded."""
    words: list[Word] = []
    position = 0
    while position < len(rest.text):
        if rest.text[position] in SPACE:
            position += 1
            continue
        word, end = _quoted_word(rest.text, position, escape)
        if word:
            words.append(Word(word, rest.offset + position))
        position = end
    return tuple(words)


def _quoted_word(text: str, position: int, escape: str) -> tuple[str, int]:
    quote = ""
    word: list[str] = []
    while position < len(text):
        char = text[position]
        if not quote and char in SPACE:
            break
        position += 1
        if char == escape and quote != "'":
            if position < len(text):  # an escape character at the very end escapes nothing
                word += (char, text[position])
            position += 1
            continue
        word.append(char)
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
    return "".join(word), min(position, len(text))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"not JSON: {constant}")


def json_array(text: str) -> list[object] | None:
    """The array, or None where the text is anything else: then it is a shell form."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=float)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def scalar_text(text: str) -> str:
    """Half a surrogate pair, which JSON can spell, is no character: replaced as Go does."""
    return _SURROGATE.sub("\ufffd", text)
