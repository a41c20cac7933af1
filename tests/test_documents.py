"""What the README and the documents tell a reader to type is understood, and what they point at is there."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ddpm_ext.training.argument_parser import ScriptArgumentParser
from ddpm_ext.training.argument_rules import Group
from ddpm_ext.training.command_line import parse


ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KINDS = {
    "train_unconditional": "unconditional",
    "train_class_conditional": "class_conditional",
    "train_points": "points",
}


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each call of a script of ours in the text's blocks of bash: the script's name and its arguments."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for place, word in enumerate(words):
                found = re.fullmatch(r"(?:train_scripts/|ddpm_ext\.train_scripts\.)(\w+?)(?:\.py)?", word)
                if found:
                    yield found[1], words[place + 1 :]


CALLS = [
    pytest.param(name, argv, id=f"{document.stem}: {name} {' '.join(argv)}"[:90])
    for document in DOCUMENTS
    for name, argv in commands(document.read_text())
]


@pytest.mark.parametrize("name, argv", CALLS)
def test_every_command_is_understood(name, argv):
    argv = argv[: argv.index("&&")] if "&&" in argv else argv
    argv = [re.sub(r"\$\w+|\.\.\.", "1", word) for word in argv]
    if name in KINDS:
        argv = ["swiss_roll" if name == "train_points" and word == "1" else word for word in argv]
        parse(KINDS[name], argv)
        return
    module = import_module(f"ddpm_ext.train_scripts.{name}")
    groups = [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Group) and found is not Group
    ]
    assert groups
    ScriptArgumentParser(groups, "").read(argv)


def test_there_are_commands():
    assert {name for name, _ in (call.values for call in CALLS)} >= {*KINDS, "sample", "evaluate", "report", "export"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_link_within_the_repository_leads_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    within = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in within if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_file_of_ours_that_is_named_exists(document):
    named = re.findall(
        r"(?<![\w/])((?:benchmarks|train_scripts|ddpm_ext|docs|tests)/[\w/]+\.(?:py|yaml|md))", document.read_text()
    )
    assert [name for name in set(named) if not (ROOT / name).exists()] == []


def test_the_pictures_of_the_readme_load_at_once():
    pictures = re.findall(r"\]\((docs/images/[^)\s]+)\)", (ROOT / "README.md").read_text())
    assert 0 < sum((ROOT / picture).stat().st_size for picture in set(pictures)) < 1_000_000
