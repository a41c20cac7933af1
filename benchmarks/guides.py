"""Runs the commands and the Python of the guides as a reader would, each guide in an empty folder of its own.

    python benchmarks/guides.py                                        # all of them, with training cut to 30 updates
    python benchmarks/guides.py points samplers --max_train_steps 0    # these two, trained as they say
    python benchmarks/guides.py practical --data FOLDER                # FOLDER/mnist and FOLDER/cifar10 for the Hub's

Blocks marked `bash` and `python` are run in their order; one with a title is the file of that name. It stops at the
first that fails, and shows it.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
GUIDES = ("points", "practical", "variance", "guidance", "samplers", "likelihood", "flow_matching", "your_own")


def blocks(text: str) -> list[tuple[str, str, str]]:
    """The language, the title and the content of each block that is to be run, or written to a file."""
    return re.findall(r"```(bash|python)(?: title=\"([\w.]+)\")?\n(.*?)```", text, re.DOTALL)


def prepared(language: str, content: str, max_train_steps: int, data: Path | None) -> str:
    """The block as it is run: with less training, and the data sets that are at hand."""
    if language == "python":
        return content
    lines = content.replace("\\\n", " ").splitlines()
    if max_train_steps:
        lines = [
            re.sub(
                r"(train_scripts/(?:train_\w+|compare)\.py[^#]*)", rf"\1 --max_train_steps {max_train_steps} ", line
            )
            for line in lines
        ]
    text = re.sub(r"\b(train_scripts|benchmarks)/", rf"{ROOT}/\1/", "\n".join(lines))
    for name in ("cifar10", "mnist") if data is not None else ():
        text = re.sub(rf"(--dataset_name) {name}\b", rf"\1 {(data / name).resolve()}", text)
    return text


def run(guide: str, max_train_steps: int, data: Path | None) -> None:
    text = (ROOT / "docs" / f"{guide}.md").read_text()
    with tempfile.TemporaryDirectory() as folder:
        for language, title, content in blocks(text):
            if title:
                (Path(folder) / title).write_text(content)
                continue
            command = prepared(language, content, max_train_steps, data)
            print(f"--- {guide}: {language}\n{command}", flush=True)
            program = (
                ["bash", "-euo", "pipefail", "-c", command] if language == "bash" else [sys.executable, "-c", command]
            )
            ended = subprocess.run(program, cwd=folder, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(f"{ended.stdout}{ended.stderr}\n{guide}: exit code {ended.returncode} of\n{command}")
            print(ended.stdout[-2000:], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("guides", nargs="*", default=GUIDES, help=f"of {', '.join(GUIDES)}")
    parser.add_argument("--max_train_steps", type=int, default=30, help="0 trains as the guides say")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    for guide in arguments.guides:
        run(guide, arguments.max_train_steps, arguments.data)
    print(f"all of {', '.join(arguments.guides)} ran")


if __name__ == "__main__":
    main()
