"""Everything is in pyproject.toml but README as PyPI shows it: there a relative link leads nowhere,
so each becomes an absolute one, pictures to the raw file and other links to the repository."""

import re
from pathlib import Path

import setuptools

REPOSITORY = "lt-sweeps/lt_sweeps"
RAW = f"https://raw.githubusercontent.com/{REPOSITORY}/main/"
BLOB = f"https://github.com/{REPOSITORY}/blob/main/"


def absolute(link: re.Match[str]) -> str:
    return f"{link[1]}]({RAW if link[1].startswith('!') else BLOB}{link[2]})"


setuptools.setup(
    long_description=re.sub(
        r"(!?\[[^\]]*)\]\((?!https:|#)([^)\s]+)\)",
        absolute,
        (Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    ),
    long_description_content_type="text/markdown",
)
