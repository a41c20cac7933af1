"""Writes the README's tables from benchmarks/results/*.json, which the other scripts in this folder make.

    python benchmarks/write_tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; its JSON has `caption`, `columns` and `rows` of text.
"""

import json
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def table(name: str) -> str:
    """The Markdown of results/NAME.json, or a line that says that it was not measured."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "Not measured.\n"
    result = json.loads(path.read_text())
    lines = [result["columns"], ["---"] * len(result["columns"]), *result["rows"]]
    body = "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
    return f"{body}\n*{result['caption']}*\n"


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text()
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    readme.write_text(pattern.sub(lambda match: match[1] + table(match[2]) + match[3], text))


if __name__ == "__main__":
    main()
