"""Make the network `builtin` of the package: render the built-in set, train, test, write weights and card.

python tools/builtin_weights.py [--work FOLDER] [OPTIONS OF mdtnet train]

Everything is done anew in FOLDER (runs/builtin_weights); what is there already is used again. Results are
`src/mdtnet/zoo/builtin.safetensors` and its card `builtin.md`.
"""

import shutil
import sys
from pathlib import Path

from mdtnet.cli.main import main
from mdtnet.hub import CARD, FILE, prepare
from mdtnet.zoo.find import BUILTIN_FILE

SET = ("--train_clips", "80", "--difficulty", "0.3", "--distractors", "0.5")
"""The built-in set, somewhat harder than `mdtnet data render` makes it: a network for any place needs it."""

NOTE = """For trying out: it has seen rendered figures alone, and knows 12 of their actions. A video of anything else
gets one of these names too."""


def run(*words: str | Path) -> None:
    """`mdtnet WORDS`; ends this program if it fails."""
    if code := main([str(word) for word in words]):
        sys.exit(code)


def make(work: Path, options: list[str]) -> None:
    """Data, run, test and card in `work`, then the two files of the package."""
    data, fresh, out = work / "data", work / "fresh", work / "run"
    if not (data / "val.csv").is_file():
        run("data", "render", data, *SET)
    if not (fresh / "val.csv").is_file():  # other clips than those that chose the epoch
        run("data", "render", fresh, *SET, "--seed", "1", "--train_clips", "1", "--val_clips", "20")
    checkpoint = out / "checkpoints" / "best.pt"
    if not (out / "metrics.json").is_file():
        places = ["--data.train", data / "train.csv", "--data.val", data / "val.csv", "--data.cache", work / "cache"]
        resume = ["--resume"] if (out / "checkpoints" / "last.pt").is_file() else []
        run("train", "--config", "builtin", *places, "--out", out, *resume, *options)
    tests = []
    for protocol in ("efficient", "accurate"):
        tests.append(work / f"test_{protocol}")
        if not (tests[-1] / "metrics.json").is_file():
            run("test", checkpoint, "--data", fresh / "val.csv", "--out", tests[-1], "--protocol", protocol)
    card = prepare(checkpoint, work / "card", tests=tests)
    shutil.copyfile(card.with_name(FILE), BUILTIN_FILE)
    text = (work / "card" / CARD).read_text(encoding="utf-8").replace(f'"{FILE}"', '"builtin"')
    text = text.replace("\n## Measured", f"\n{NOTE}\n\n## Measured", 1)
    BUILTIN_FILE.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"wrote {BUILTIN_FILE} ({BUILTIN_FILE.stat().st_size / 1e6:.1f} MB) and its card")


if __name__ == "__main__":
    words = sys.argv[1:]
    place = Path("runs/builtin_weights")
    if words[:1] == ["--work"]:
        place, words = Path(words[1]), words[2:]
    make(place, words)
