"""Make the tables of `mdtnet.zoo` from facts about public checkpoints and from label maps.

python tools/zoo_table.py FACTS.yaml LABEL_MAPS_FOLDER [OUT_FOLDER]

An entry is refused where its facts contradict each other: digest against file name, segments and sampling against
the protocol, classes against the label map. What mdtnet cannot load is left out.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Facts = dict[str, Any]

OUT = Path(__file__).parents[1] / "src" / "mdtnet" / "zoo"
VERSION = 1

LOADED_SINCE = ("mobilenet_v2",)
"""Trunks whose tables of names are newer than the facts."""

LABEL_FILES = {
    "kinetics400": "kinetics_label_map_k400.txt",
    "kinetics600": "kinetics_label_map_k600.txt",
    "kinetics700": "kinetics_label_map_k700.txt",
    "sthv1-csv": "sthv1_label_map.txt",
    "sthv2": "sthv2_label_map.txt",
    "ucf101": "ucf101_label_map.txt",
    "hmdb51": "hmdb51_label_map.txt",
    "jester": "jester_label_map.txt",
    "diving48": "diving48_label_map.txt",
    "moments": "mit_label_map.txt",
    "multi-moments": "mmit_label_map.txt",
    "activitynet": "activitynet_label_map.txt",
}
SORTED = {"sthv1-sorted": "sthv1-csv", "jester-online": "jester"}
"""Orders that are the names of another one, sorted."""

CROPS: dict[str, Facts] = {
    "centre crop of 224": {},
    "centre crop of 256": {"crop_size": 256},
    "3 crops of 256": {"crops": 3},
    "10 crops of 224": {"crops": 5, "flip": True},
}
RULES: dict[str, Facts] = {
    "uniform": {},
    "uniform, twice": {"rule": "tsm_twice", "clips": 2},
    "dense": {"rule": "dense", "clips": 10},
}
KEYED: dict[str, tuple[str, Facts]] = {
    "uniform_1clip_centre_crop": ("1 clip x centre crop of 224", {}),
    "uniform_1clip_10crops": ("1 clip x 10 crops of 224", {"crops": 5, "flip": True}),
    "dense_10clips_3crops_256": ("10 dense clips x 3 crops of 256", {"rule": "dense", "clips": 10, "crops": 3}),
}
WORDED: dict[str, Facts] = {
    "1 clip x centre crop 224": {},
    "1 clip x centre crop": {},
    "2 clips (centres and starts of segments) x 3 crops of 256": {"rule": "tsm_twice", "clips": 2, "crops": 3},
    "2 clips x 3 crops of 256": {"rule": "tsm_twice", "clips": 2, "crops": 3},
    "10 random clips x 3 crops of 256": {"rule": "random", "clips": 10, "crops": 3},
}

MIRRORED = "the published figure averages mirrored views under unchanged labels too, which no protocol here does"


def labels(maps: Path) -> dict[str, list[str]]:
    """Class names of every label order, from the label maps."""
    found = {name: (maps / file).read_text(encoding="utf-8").split("\n") for name, file in LABEL_FILES.items()}
    found = {name: [line.strip() for line in lines if line.strip()] for name, lines in found.items()}
    return found | {name: sorted(found[other]) for name, other in SORTED.items()}


def published(entry: Facts) -> Iterator[Facts]:
    """The published figures of an entry, each with its protocol as words and as values of `EvalConfig`."""
    facts = entry["published"]
    fusion = {"fusion": "logits"} if entry["licence"] == "MIT" else {}
    if "protocol_in_config" in facts:
        words = facts["protocol_in_config"]
        frames, rule, crops = re.fullmatch(r"(\d+) frames \((.*?)\) x (.*)", words).groups()  # type: ignore[union-attr]
        segments = {} if int(frames) == entry["segments"] else {"segments": int(frames)}
        yield _figures(facts, words) | {"test": RULES[rule] | CROPS[crops] | segments | fusion}
    elif "protocol" in facts:
        words = facts["protocol"]
        test = WORDED[re.sub(r" \(.*\)", "", words)]
        yield _figures(facts, words) | {"test": test | ({"rule": "tdn"} if not test else {}) | fusion}
        if several := re.search(r"\(3 crops: ([\d.]+) / ([\d.]+)\)", words):
            figures = {"top1": float(several[1]), "top5": float(several[2])}
            yield figures | {"words": "1 clip x 3 crops of 256", "test": {"rule": "tdn", "crops": 3} | fusion}
    else:
        other = facts.get("test_segments", entry["segments"])
        segments = {} if other == entry["segments"] else {"segments": other}
        for key, figures in facts.items():
            if key in KEYED:
                words, test = KEYED[key]
            elif key in ("efficient", "accurate"):
                words = figures["protocol"]
                test = WORDED[words]
            else:
                continue
            yield _figures(figures, words) | {"test": test | segments | fusion}


def _figures(facts: Facts, words: str) -> Facts:
    figures = {key.lower(): facts[key] for key in ("top1", "top5", "mAP") if facts.get(key) is not None}
    return {**figures, "words": words.split(" (3 crops")[0]}


def row(facts: Facts, *, by_hand: bool = False) -> Facts:
    """An entry of the table."""
    entry: Facts = {key: facts[key] for key in ("name", "system", "trunk", "data", "labels", "segments")}
    if entry["system"] == "tsm-online":
        entry |= {"system": "tsm", "causal": True}
    if by_hand:
        entry |= {"by_hand": True, "addresses": [facts["folder_or_file"]], "start": "ImageNet"}
        entry["flip"] = "swap" if entry["data"].startswith("sth") else "true"
        entry["classes"] = {"kinetics400": 400}.get(entry["data"], 174)
    else:
        entry["classes"] = facts["classes"]
        entry["addresses"] = [facts["address"], *facts.get("mirrors_dead_or_unsure", [])]
        entry["flip"] = facts["flip"]
        entry["start"] = re.sub(r" ?\\?\[.*", "", str(facts.get("start") or "")).strip("\\")
        if facts["sha256_prefix"]:
            entry["sha256_prefix"] = facts["sha256_prefix"]
    entry["licence"], entry["source"] = facts["licence"], facts["source"]
    if facts.get("recommended"):
        entry["recommended"] = True
    if "several labels" in facts.get("note", ""):
        entry["multi_label"] = True
    entry["published"] = [p for p in published(facts) if len(p) > 2]
    mirrored = [p for p in entry["published"] if p["test"].get("flip") and entry["flip"] != "true"]
    for figure in mirrored:  # labels name left and right, or training saw no mirror image
        del figure["test"]
    dense = any(p.get("test", {}).get("rule") == "dense" for p in entry["published"])
    entry["sampling"] = "dense" if dense and "dense" in facts["name"] else facts.get("sampling", "uniform")
    entry["notes"] = _notes(facts) + [MIRRORED] * bool(mirrored)
    return {key: value for key, value in entry.items() if value not in ("", [], None)}


def _notes(facts: Facts) -> list[str]:
    told = {"trained on", "dense:", "label order", "class names sorted", "every second", "normalises", "shift only"}
    notes = [trap for trap in facts.get("traps") or [] if not any(trap.startswith(start) for start in told)]
    if facts.get("training_videos"):
        notes.append(f"trained on videos of {facts['training_videos']} pixels")
    table = facts["published"].get("protocol_in_table")
    if table and not facts.get("by_hand"):
        notes.append(f"the repository's own table says {table}")
    if facts.get("same_weights_as"):
        notes.append(f"the same weights as {facts['same_weights_as']}")
    return notes


def problems(entry: Facts, names: dict[str, list[str]]) -> Iterator[str]:
    """Contradictions between the facts of an entry."""
    addresses = entry["addresses"]
    file = addresses[0].rpartition("/")[2]
    if prefix := entry.get("sha256_prefix"):
        if not re.search(rf"[-_]{prefix}\.pth$", file):
            yield f"digest {prefix} is not that of {file}"
    elif "openmmlab" in addresses[0] and not entry.get("by_hand"):
        yield "no digest"
    if entry["labels"] in names and len(names[entry["labels"]]) != entry["classes"]:
        yield f"{entry['classes']} classes, {len(names[entry['labels']])} names"
    if not entry["name"].startswith(f"{entry['system']}-{entry['trunk']}-{entry['data']}-"):
        yield "name and facts differ"
    told = re.search(r"1x1x(\d+)", file)
    if told and int(told[1]) != entry["segments"]:
        yield f"{entry['segments']} segments, but {file}"
    if not re.search(rf"-{entry['segments']}f", entry["name"]) and not entry.get("causal"):
        yield f"{entry['segments']} segments"
    if ("dense" in file.lower()) != (entry["sampling"] == "dense") and not entry.get("by_hand"):
        yield f"sampling {entry['sampling']}, but {file}"
    for figure in entry.get("published", []):
        if not 0 < figure.get("top1", figure.get("map", 0)) <= figure.get("top5", 100) <= 100:
            yield f"figures {figure}"


def table(facts: Facts, names: dict[str, list[str]]) -> list[Facts]:
    """All entries that load, the shortlist first.

    Raises:
        ValueError: facts contradict each other.
    """
    loads = [e for e in facts["checkpoints"] if e["mdtnet_loads"] == "yes" or e["trunk"] in LOADED_SINCE]
    rows = [row(e) for e in loads] + [row(e, by_hand=True) for e in facts["by_hand"]["checkpoints"]]
    wrong = [f"{entry['name']}: {problem}" for entry in rows for problem in problems(entry, names)]
    wrong += [f"{name}: twice" for name, count in Counter(entry["name"] for entry in rows).items() if count > 1]
    addresses = Counter(address for entry in rows for address in entry["addresses"])
    wrong += [f"{address}: twice" for address, count in addresses.items() if count > 1]
    if wrong:
        raise ValueError("\n".join(wrong))
    place = {name: i for i, name in enumerate(facts["shortlist"]["names"])}
    if missing := place.keys() - {entry["name"] for entry in rows}:
        raise ValueError(f"shortlist: {', '.join(sorted(missing))}")
    return sorted(rows, key=lambda entry: place.get(entry["name"], len(place)))


def write(rows: list[Facts], names: dict[str, list[str]], out: Path) -> None:
    """Write `table.json`, an entry per line, and `labels.json`, a label order per line."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in rows)
    (out / "table.json").write_text(f'{{"version": {VERSION}, "checkpoints": [\n{lines}\n]}}\n', encoding="utf-8")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(of, ensure_ascii=False)}" for name, of in names.items())
    (out / "labels.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    source, maps, *out = map(Path, sys.argv[1:])
    found = labels(maps)
    write(table(yaml.safe_load(source.read_text(encoding="utf-8")), found), found, out[0] if out else OUT)
