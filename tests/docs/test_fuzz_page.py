"""The page about the fuzzer names the options that there are, and files that exist."""

from __future__ import annotations

import re

from tests.docs.documents import DOCS, code, rows, sections
from tests.fuzz.command import main
from tests.support.supervised import ROOT

TEXT = (DOCS / "fuzz.md").read_text()


def test_options() -> None:
    listed = {code(name)[0].split()[0] for name, _ in rows(sections(TEXT)["Fuzz"])}
    assert listed == {option for parameter in main.params for option in parameter.opts}


def test_files() -> None:
    for name in re.findall(r"`((?:tests|millstream|ops)/\S+\.(?:py|md))`", TEXT):
        assert (ROOT / name).is_file(), name
