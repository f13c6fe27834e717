"""Word expansion: `$NAME`, `${NAME…}`, quotes and escapes, as BuildKit's shell lexer does them.

    ${N}  ${N:-word}  ${N-word}  ${N:+word}  ${N+word}  ${N:?message}  ${N?message}
    ${N#pattern}  ${N##pattern}  ${N%pattern}  ${N%%pattern}  ${N/pattern/text}  ${N//pattern/text}

Single quotes keep everything, double quotes keep all but `$` and escapes, the escape character keeps the character
after it. `expand_word` gives one string (spaces stay), `expand_words` splits at spaces outside of quotes,
also at those that came out of a variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_plugins.dockerfile import pattern as shell_pattern
from ci_plugins.errors import ExpansionError

SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What Unicode and Go call white space; Python's own str.isspace() has a few control characters more."""

_SPECIAL_PARAMETERS: Final = "@*#?-$!"
_MAX_DEPTH: Final = 64
_REMEDY: Final = "Correct the variable reference, or escape the dollar sign to keep it as it is."


class Scope:
    """The variables in force at an instruction, and a record of which were asked for.

    `used` are names that had a value, `missing` names that had none: inputs of a key, and of a warning.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def get(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.missing if value is None else self.used).add(name)
        return value


def expand_word(text: str, scope: Scope, escape: str = "\\") -> str:
    """Expand, take quotes and escapes off, keep spaces. Raises ExpansionError without a place."""
    return _Lexer(text, scope, escape).run().text


def expand_words(text: str, scope: Scope, escape: str = "\\") -> tuple[str, ...]:
    """Expand, then split into words. Raises ExpansionError without a place."""
    return tuple(_Lexer(text, scope, escape).run().split())


def expand_document(text: str, scope: Scope) -> str:
    """Expand the body of a heredoc: quotes are part of it. The escape character is always the backslash."""
    return _Lexer(text, scope, "\\", quotes=False).run().text


def raw_words(text: str) -> tuple[str, ...]:
    """Split into words with nothing expanded and nothing taken off. Raises ExpansionError without a place."""
    return tuple(_Lexer(text, Scope({}), "\\", keep_quotes=True, keep_escapes=True, keep_unset=True).run().split())


def heredoc_words(text: str, *, keep_quotes: bool) -> tuple[str, ...]:
    """The words of a heredoc delimiter. Raises ExpansionError without a place."""
    return tuple(_Lexer(text, Scope({}), "\\", keep_quotes=keep_quotes, keep_unset=True).run().split())


@dataclass
class _Output:
    """Text as one string, and the same split into words. Literal characters do not split, others do at spaces."""

    text: str = ""
    words: list[str] = field(default_factory=list)
    word: str = ""

    def literal(self, text: str) -> None:
        self.text += text
        self.word += text

    def splitting(self, text: str) -> None:
        self.text += text
        for char in text:
            if char not in SPACE:
                self.word += char
            elif self.word:
                self.words.append(self.word)
                self.word = ""

    def split(self) -> list[str]:
        return [*self.words, self.word] if self.word else self.words


@dataclass
class _Lexer:
    """One pass over `source`. `keep_*` leave the named thing as it is written; `quotes=False`: they mean nothing."""

    source: str
    scope: Scope
    escape: str
    quotes: bool = True
    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False
    position: int = 0
    depth: int = 0

    def run(self) -> _Output:
        return self.until("", keep_escapes=self.keep_escapes)

    def peek(self) -> str:
        """The next character, "" at the end."""
        return self.source[self.position : self.position + 1]

    def next(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def fail(self, why: str) -> ExpansionError:
        return ExpansionError(f"cannot expand {self.source!r}: {why}", remedy=_REMEDY)

    def until(self, stop: str, *, keep_escapes: bool) -> _Output:
        """Up to and over the character `stop`, or to the end where it is ""."""
        outer, self.keep_escapes = self.keep_escapes, keep_escapes
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fail(f"more than {_MAX_DEPTH} nested substitutions")
        output = _Output()
        while (char := self.peek()) and char != stop:
            if char == "$":
                output.splitting(self.variable())
            elif self.quotes and char == "'":
                output.literal(self.single_quoted())
            elif self.quotes and char == '"':
                output.literal(self.double_quoted())
            elif char == "<":
                output.literal(self.angle())
            elif char == self.escape:
                self.next()
                output.literal((char if keep_escapes else "") + self.next())
            else:
                output.splitting(self.next())
        if stop and not self.next():
            raise self.fail(f"missing {stop!r}")
        self.keep_escapes = outer
        self.depth -= 1
        return output

    def angle(self) -> str:
        """`<<` takes the spaces after it along: a heredoc may have some before its delimiter."""
        if not self.source.startswith("<<", self.position):
            return self.next()
        start = self.position
        self.position += 2
        while self.peek() and self.peek() in " \t\r":
            self.position += 1
        return self.source[start : self.position]

    def single_quoted(self) -> str:
        end = self.source.find("'", self.position + 1)
        if end < 0:
            raise self.fail("missing the closing single quote")
        start, self.position = self.position, end + 1
        return self.source[start : end + 1] if self.keep_quotes else self.source[start + 1 : end]

    def double_quoted(self) -> str:
        quote = '"' if self.keep_quotes else ""
        self.next()
        text = quote
        while (char := self.peek()) != '"':
            if not char:
                raise self.fail("missing the closing double quote")
            text += self.variable() if char == "$" else self.in_double_quotes()
        self.next()
        return text + quote

    def in_double_quotes(self) -> str:
        """One character; the escape character is one itself unless it stands before `"`, `$` or itself."""
        char = self.next()
        if char != self.escape:
            return char
        kept = char if self.keep_escapes else ""
        if not self.peek():
            return kept
        return kept + (self.next() if self.peek() in ('"', "$", self.escape) else char)

    def variable(self) -> str:
        self.next()
        if self.peek() == "{":
            return self.braced()
        name = self.name()
        if not name:
            return "$"
        value = self.scope.get(name)
        if value is None and self.keep_unset:
            return "$" + name
        return value or ""

    def name(self) -> str:
        """Letters, digits and `_`; digits alone where the first is one; or one special parameter."""
        start = self.position
        first = self.peek()
        if first and first in _SPECIAL_PARAMETERS:
            self.position += 1
        elif first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        else:
            while (char := self.peek()).isalpha() or char.isdecimal() or char == "_":
                self.position += 1
        return self.source[start : self.position]

    def braced(self) -> str:
        start = self.position - 1
        self.next()
        if not self.peek():
            raise self.fail("missing '}'")
        if self.peek() in "{}:":
            raise self.fail("bad substitution")
        name = self.name()
        modifier = self.next()
        if modifier == ":":
            modifier += self.next()
        if modifier == "}":
            value, set_ = self.lookup(name)
        elif modifier == "/":
            value, set_ = self.substitution(name)
        elif modifier.lstrip(":") in ("-", "+", "?", "#", "%"):
            value, set_ = self.modified(name, modifier)
        else:
            raise self.fail(f"unsupported modifier {modifier!r}" if modifier else "missing '}'")
        return self.source[start : self.position] if self.keep_unset and not set_ else value

    def lookup(self, name: str) -> tuple[str, bool]:
        value = self.scope.get(name)
        return value or "", value is not None

    def modified(self, name: str, modifier: str) -> tuple[str, bool]:
        word = self.until("}", keep_escapes=modifier[-1] in "#%").text
        value, set_ = self.lookup(name)
        absent = not set_ or (modifier[0] == ":" and not value)
        match modifier[-1]:
            case "-":
                return (word if absent else value), set_
            case "+":
                return ("" if absent else word), set_
            case "?":
                if absent and not self.keep_unset:
                    raise self.fail(f"{name}: {word or ('it is empty' if set_ else 'it is not set')}")
                return value, set_
            case kind:
                return self.trimmed(kind, word, value), set_

    def trimmed(self, kind: str, word: str, value: str) -> str:
        longest = word.startswith(kind)
        remove = shell_pattern.remove_prefix if kind == "#" else shell_pattern.remove_suffix
        try:
            return remove(word[1:] if longest else word, value, longest=longest)
        except ValueError as error:
            raise self.fail(str(error)) from error

    def substitution(self, name: str) -> tuple[str, bool]:
        every = self.peek() == "/"
        if every:
            self.next()
        pattern = self.until("/", keep_escapes=True).text
        replacement = self.until("}", keep_escapes=True).text
        value, set_ = self.lookup(name)
        try:
            return shell_pattern.substitute(pattern, replacement, value, every=every), set_
        except ValueError as error:
            raise self.fail(str(error)) from error
