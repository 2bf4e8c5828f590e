"""A folder in which a fault is made, its refusal read and its remedy followed to the letter."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from msseg_lightning.cli.main import main
from msseg_lightning.core.problem import MssegError, Problem

SAID = re.compile(r"\[([a-z]+\.[a-z_0-9]+)\] (.*?)(?: -> ((?:(?! -> ).)*))?$", re.MULTILINE)
SETTING = re.compile(r"\+{0,2}\b[a-z][\w.]*=(?:'[^']*'|\[[^]]*\]|(?:[^\s,;)`]|,(?=\S))+)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]+")
COMMAND = re.compile(r"`(msseg [^`]+)`|(?:^|: )(msseg .+)$")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What was said: a code, the whole line and the remedy at its end."""

    code: str
    text: str
    remedy: str
    expected: str = ""

    def settings(self, **names: str) -> list[list[str]]:
        """The settings that the remedy names, as words of a command; one list per alternative.

        Args:
            names: what stands for a word in capitals, such as ``OTHER`` or ``VALUE``.
        """
        parts = re.split(r", or |; | or (?=\w[\w.]*=)|, (?=\w[\w.]*=)", self.remedy)
        found = [[_filled(word, names) for word in SETTING.findall(part)] for part in parts]
        return [words for words in found if words]

    def options(self) -> list[str]:
        """The ``--options`` that the remedy names."""
        return OPTION.findall(self.remedy)

    def commands(self, **names: str) -> list[list[str]]:
        """The commands that the remedy names, split as a shell does, without ``msseg``."""
        found = [first or second for first, second in COMMAND.findall(self.remedy)]
        return [shlex.split(_filled(command, names))[1:] for command in found]


def _filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = re.sub(rf"\b{name}\b", lambda _, value=value: value, text)
    return text if text.startswith("msseg") else "".join(shlex.split(text))


class Place:
    """What a case works with.

    Args:
        folder: empty, and the working folder.
        request: of pytest, for the fixtures that some cases need.
    """

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self._request = request
        self.seen: set[str] = set()

    def fixture(self, name: str) -> Any:
        """A fixture of pytest, made when it is asked for."""
        return self._request.getfixturevalue(name)

    def msseg(self, words: Sequence[str]) -> tuple[int, str]:
        """Run a command in this process: its exit code and all it said."""
        heard = io.StringIO()
        logger = logging.StreamHandler(heard)
        logging.getLogger().addHandler(logger)
        try:
            with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
                try:
                    code = int(main(list(map(str, words))))
                except SystemExit as end:  # of argparse
                    code = int(end.code or 0)
        finally:
            logging.getLogger().removeHandler(logger)
        return code, heard.getvalue()

    def refused(self, code: str, words: Sequence[str]) -> Refusal:
        """The refusal that a command ends with."""
        status, text = self.msseg(words)
        assert status not in (0, 1), f"not refused: {text}"
        return self.said(code, text)

    def said(self, code: str, text: str) -> Refusal:
        """A problem in what a command said."""
        for found in SAID.finditer(text):
            if found[1] == code:
                expected = re.search(r"expected (.*?)(?:\)$|\) ->)", found[0])
                return self._noted(
                    Refusal(code, found[0], found[3] or "", expected[1] if expected else "")
                )
        raise AssertionError(f"{code} was not said: {text}")

    def raised(self, code: str, action: Callable[[], object]) -> Refusal:
        """The refusal that a function of the package raises."""
        with pytest.raises(MssegError) as caught:
            action()
        return self.among(code, caught.value.problems)

    def among(self, code: str, problems: Sequence[Problem]) -> Refusal:
        """A problem of a list."""
        named = [problem for problem in problems if problem.code == code]
        assert named, f"no {code}: {[str(problem) for problem in problems]}"
        return self._noted(Refusal(code, str(named[0]), named[0].remedy, named[0].expected))

    def _noted(self, refusal: Refusal) -> Refusal:
        self.seen.add(refusal.code)
        return refusal

    def ends_well(self, words: Sequence[str]) -> str:
        """Run a command, which must end with 0; what it said."""
        status, text = self.msseg(words)
        assert status == 0, f"msseg {shlex.join(map(str, words))}: {text}"
        return text

    def follow_settings(self, refusal: Refusal, words: Sequence[str], **names: str) -> None:
        """Give the command again with each alternative of the remedy."""
        choices = refusal.settings(**names)
        assert choices, f"no setting in {refusal.remedy!r}"
        for choice in choices:
            self.ends_well(with_settings(words, choice))

    def follow_commands(self, refusal: Refusal, **names: str) -> list[str]:
        """Run each command of the remedy; what they said."""
        commands = refusal.commands(**names)
        assert commands, f"no command in {refusal.remedy!r}"
        return [self.ends_well(words) for words in commands]


def with_settings(words: Sequence[str], choice: Sequence[str]) -> list[str]:
    """The words with these settings in place of those of the same name."""
    keys = {word.partition("=")[0].lstrip("+") for word in choice}
    kept = [word for word in map(str, words) if word.partition("=")[0].lstrip("+") not in keys]
    return [*kept, *choice]


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault with its remedy.

    Args:
        codes: refusals whose remedies ``follow`` follows.
        follow: makes the fault, reads the remedy, follows it and ends well.
    """

    codes: tuple[str, ...]
    follow: Callable[[Place], None]

    def __str__(self) -> str:
        return f"{'+'.join(self.codes)}-{getattr(self.follow, '__name__', 'case')}"


CASES: list[Case] = []


def case(*codes: str) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    """Enter a function in the list of cases."""

    def enter(follow: Callable[[Place], None]) -> Callable[[Place], None]:
        CASES.append(Case(codes, follow))
        return follow

    return enter
