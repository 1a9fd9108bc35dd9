"""Command lines made from a template and inputs, as GNU parallel makes them.

Pure, except for reading lines. Places in the words of a command: ``{}`` is the input, ``{.}`` without its extension,
``{/}`` its last part, ``{//}`` its directory, ``{/.}`` its last part without extension, ``{#}`` the number of the
command from 1; ``{2}`` (``{2.}``, ``{2/}`` ...) is the input of the second source. Without any place the input comes
last. For a shell each input is quoted, so that it stays one word.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Final, NamedTuple

from dtq.errors import BadInput, InvalidValue

#: Separates a command from its inputs.
SOURCE: Final = ":::"
_PLACE: Final = re.compile(r"\{(?:(#)|([1-9][0-9]?)?(/\.|//|/|\.)?)\}")
_EXTENSION: Final = re.compile(r"\.[^/.]+\Z")

#: A command: its words; or a line for the shell.
Words = tuple[str, ...] | str
#: The inputs of one command, one of each source.
Inputs = tuple[str, ...]


class Job(NamedTuple):
    """One command to run.

    Attributes:
        sequence: its number, from 1.
        inputs: its inputs.
        words: its words.
    """

    sequence: int
    inputs: Inputs
    words: Words


class Template:
    """A command with places for inputs.

    Args:
        words: its words.
        shell: whether they are a line for the shell; without any words each input is such a line.
        sources: number of inputs of each command; 0: it is one command, and taken as it is.

    Raises:
        InvalidValue: it has a place for an input that is not there.
    """

    def __init__(self, words: Sequence[str], shell: bool, sources: int) -> None:
        #: Whether the inputs themselves are the commands.
        self._is_input = not words
        self._words = (" ".join(words),) if shell else tuple(words)
        self._shell = shell
        found = [match for word in self._words for match in _PLACE.finditer(word)] if sources else []
        for match in found:
            if match[2] and int(match[2]) > sources:
                raise InvalidValue("a place in the command", match[0], f"each command has {sources} of such inputs")
        self._is_plain = not sources
        if sources and not found:
            self._words = (f"{self._words[0]} {{}}",) if shell else (*self._words, "{}")

    def filled(self, sequence: int, inputs: Inputs) -> Words:
        """The command for some inputs.

        Args:
            sequence: its number, from 1.
            inputs: one of each source.
        """
        if self._is_input:
            return " ".join(inputs)
        if self._is_plain:
            return self._words[0] if self._shell else self._words
        if self._shell:
            return self._word(self._words[0], sequence, tuple(map(shlex.quote, inputs)), inputs)
        words: list[str] = []
        for word in self._words:
            words += inputs if word == "{}" else (self._word(word, sequence, inputs, inputs),)
        return tuple(words)

    def text(self, pattern: str, sequence: int, inputs: Inputs) -> str:
        """Another text with the same places, filled as plain text."""
        return self._word(pattern, sequence, inputs, inputs, plain=True)

    def _word(self, word: str, sequence: int, whole: Sequence[str], inputs: Inputs, *, plain: bool = False) -> str:
        def fill(match: re.Match[str]) -> str:
            number, source, form = match.groups()
            if number:
                return str(sequence)
            if not form:
                return " ".join(whole) if not source else whole[int(source) - 1]
            chosen = inputs if not source else (inputs[int(source) - 1],)
            parts = [_in_form(text, form) for text in chosen]
            return " ".join(map(shlex.quote, parts) if self._shell and not plain else parts)

        return _PLACE.sub(fill, word)


def _in_form(text: str, form: str) -> str:
    if form == "//":
        return os.path.dirname(text) or "."
    if form.startswith("/"):
        text = text.rpartition("/")[2]
    return _EXTENSION.sub("", text) if form.endswith(".") else text


def shown(words: Words) -> str:
    """A command as one types it."""
    return words if isinstance(words, str) else shlex.join(words)


# -- inputs -------------------------------------------------------------------------------------------------------


def divided(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A command's words, and the inputs of each source after ``:::``.

    Raises:
        InvalidValue: a source has no command before it, or no input.
    """
    parts: list[list[str]] = [[]]
    for word in words:
        if word == SOURCE:
            parts.append([])
        else:
            parts[-1].append(word)
    command, *sources = parts
    if sources and not command:
        raise InvalidValue("a command", SOURCE, "the command comes before it: dtq run -- echo {} ::: a b c")
    if not all(sources):
        raise InvalidValue("a source", SOURCE, "inputs come after it: dtq run -- echo {} ::: a b c")
    return command, sources


def combined(sources: Sequence[Sequence[str]]) -> Iterator[Inputs]:
    """Each input of the first source with each of the second, and so on; the last source changes fastest."""
    return product(*sources)


def lines(file: Iterable[bytes], null: bool) -> Iterator[Inputs]:
    """The inputs of a file: its lines; or texts that end with a NUL. Empty ones are skipped.

    A line that is not UTF-8 is decoded as Python decodes such file names: it still opens the file.
    """
    for line in _ended_by_null(file) if null else file:
        text = line.rstrip(b"\r\n") if not null else line
        if text:
            yield (text.decode(errors="surrogateescape"),)


def _ended_by_null(file: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for data in file:
        *whole, rest = (rest + data).split(b"\0") if b"\0" in data else (rest + data,)
        yield from whole
    if rest:
        yield rest


def jobs(template: Template, inputs: Iterable[Inputs], source: str) -> Iterator[Job]:
    """The commands of a template.

    Args:
        template: the template.
        inputs: the inputs.
        source: their origin, for the sentence.

    Raises:
        BadInput: an input has a NUL, which no argument can have; names its number.
    """
    for sequence, values in enumerate(inputs, 1):
        if any("\0" in value for value in values):
            raise BadInput(source, sequence, "it has a NUL, which no argument can have (use -0 for a list with NULs)")
        yield Job(sequence, values, template.filled(sequence, values))
