"""Describe an error that arose in a user's own file, with its place, in one line."""

from __future__ import annotations

from pathlib import Path
from traceback import extract_tb

from lt_sweeps.config.user_code import is_installed, is_of_python


def raised_in(error: BaseException) -> str | None:
    """Return `FILE:LINE: KIND: MESSAGE` of an error in a user's own file; None for any other.

    The innermost frame outside libraries decides whose mistake it is.
    """
    ours = Path(__file__).parents[1]
    frames = [(Path(f.filename), f.lineno) for f in extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((Path(error.filename), error.lineno))
    for file, line in reversed(frames):
        if is_installed(file) or is_of_python(file) or file.stem[0] == "<":
            continue
        if file.is_relative_to(ours):
            return None
        said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        near = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        return f"{near}:{line}: {type(error).__name__}: {said}".removesuffix(": ")
    return None


def told_by(error: BaseException) -> str:
    """Describe an error in one line: with its place in a user's file, or its text, or its kind."""
    return raised_in(error) or " ".join(str(error).split()) or type(error).__name__
