"""Results as tables: printed, kept as JSON in benchmarks/results, and written into the README and the documents.

    python benchmarks/tables.py        # puts every kept table where a document asks for it

A document asks with `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is replaced.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ddpm_ext.publishing.markdown import markdown_table


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_result(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints the table and keeps it as results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    content = {"caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(markdown(name))


def markdown(name: str) -> str:
    """The table in results/NAME.json, or a line that says that it was not measured."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "Not measured.\n"
    result = json.loads(path.read_text())
    return f"{markdown_table(result['columns'], result['rows'])}\n*{result['caption']}*\n"


def main() -> None:
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = document.read_text()
        document.write_text(pattern.sub(lambda match: match[1] + markdown(match[2]) + match[3], text))


if __name__ == "__main__":
    main()
