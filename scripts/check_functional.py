"""Checks the scorer of meaning representations against a second one: regular expressions, over well-formed lines.

    cargo build
    python scripts/check_functional.py target/debug/rag-tune DATA.jsonl...      ViGGO's splits; any Python, no packages
    python scripts/check_functional.py --golden tests/fixtures/golden/functional.json

Every gold line gets predictions that are damaged in a known way. rag-tune scores them, and each row's figures must be
those that are computed here. `--golden` writes the same for made-up lines. `character` is the original experiment's
check_character_accuracy.py (samlhuillier/tunetherag at commit 2274e6e), stated again.
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

LISTS = {"genres", "player_perspective", "platforms"}
LINE = re.compile(r"(\w+)\(((?:\w+\[[^\[\]]*\](?:, )?)*)\)")
ATTRIBUTE = re.compile(r"(\w+)\[([^\[\]]*)\]")
MADE_UP = [
    "inform(name[Tin Harbor], release_year[2011], genres[puzzle, sport], platforms[PC, Xbox], has_multiplayer[no])",
    "inform(name[Wind, Sand and Gears], exp_release_date[May 3, 2020], esrb[E 10+ (for Everyone 10 and Older)])",
    "request_attribute(player_perspective[])",
    "give_opinion(name[Old Fenwick's Rally 3], rating[poor], player_perspective[bird view, side view])",
    "request(specifier[odd], genres[driving/racing, indie, music])",
    "confirm(name[Caf\u00e9 \u00c9toile: The Long Night], developer[Northlight & Daughters])",
    "verify_attribute(name[Quartz Summit], rating[excellent], has_mac_release[yes], available_on_steam[no])",
    "recommend(name[Paper Garden], platforms[Nintendo, Nintendo Switch])",
]


def read(text):
    """Function and list of attributes with their values."""
    function, inside = LINE.fullmatch(text).groups()
    split = [(name, value.split(", ") if name in LISTS else [value]) for name, value in ATTRIBUTE.findall(inside)]
    return function, [(name, [value for value in values if value]) for name, values in split]


def mutations(gold, others, chance):
    """Predictions for a gold line, each with whether it is well-formed and what a reader finds in it."""
    function, attributes = read(gold)
    other = read(chance.choice(others))
    shuffled = chance.sample(attributes, len(attributes))
    reordered = [(name, chance.sample(values, len(values))) for name, values in attributes]
    doubled = [(name, values + values[:1] if name in LISTS else values) for name, values in attributes]
    well_formed = {
        "same": (function, attributes),
        "another row": other,
        "attributes in another order": (function, shuffled),
        "values in another order": (function, reordered),
        "a value twice": (function, doubled),
        "another function": (other[0], attributes),
        "other attributes": (function, other[1]),
        "one attribute less": (function, attributes[1:]),
        "one attribute more": (function, attributes + other[1][:1]),
        "an attribute twice": (function, attributes + attributes[-1:]),
        "no values": (function, [(name, []) for name, _ in attributes]),
        "other case": (function, [(name, [value.upper() for value in values]) for name, values in attributes]),
    }
    for kind, (named, found) in well_formed.items():
        yield kind, written(named, found), named, found, True
    text = written(function, attributes)
    yield "no spaces", text.replace(", ", ",").replace("(", " ( ", 1), function, spaceless(attributes), True
    yield "last brackets missing", text[:-2], function, attributes[:-1], False
    yield "text behind", text + " and so on", function, attributes, False
    yield "text before", "Meaning: " + text, "", [], False
    yield "function only", function, "", [], False
    yield "nothing", "", "", [], False


def written(function, attributes):
    return f"{function}({', '.join(f'{name}[' + ', '.join(values) + ']' for name, values in attributes)})"


def spaceless(attributes):
    """What is left of values when the space behind each comma goes."""
    return [(name, [value.replace(", ", ",") for value in values]) for name, values in attributes]


def figures(gold, text, function, attributes, is_well_formed):
    """The figures of a row: a number, or part and whole."""
    gold_function, gold_attributes = read(gold)

    def pairs(found):
        return Counter((name, value) for name, values in found for value in (sorted(set(values)) or [None]))

    def form(found):
        return sorted((name, sorted(set(values))) for name, values in found)

    wanted, given = pairs(gold_attributes), pairs(attributes)
    common = (wanted & given).total()
    same = is_well_formed and gold_function == function and form(gold_attributes) == form(attributes)
    left, right = gold + "\n", text + "\n"
    positions = sum(a == b for a, b in zip(left, right))
    return {
        "exact_order_free": float(same),
        "exact_line": float(gold.strip() == text.strip()),
        "function": float(gold_function == function),
        "attribute_precision": [common, given.total()],
        "attribute_recall": [common, wanted.total()],
        "attribute_f1": [2 * common, wanted.total() + given.total()],
        "character": positions / max(len(left), len(right)),
    }


def cases(golds):
    chance = random.Random(7)
    for gold in golds:
        assert written(*read(gold)) == gold, gold
        for kind, text, function, attributes, is_well_formed in mutations(gold, golds, chance):
            found = figures(gold, text, function, attributes, is_well_formed)
            yield {"kind": kind, "gold": gold, "prediction": text, "malformed": not is_well_formed, "metrics": found}


def is_equal(ours, expected):
    pair = ours if isinstance(ours, list) else [ours, 1.0]
    wanted = expected if isinstance(expected, list) else [expected, 1.0]
    return all(abs(a - b) < 1e-12 for a, b in zip(pair, wanted, strict=True))


def check(program, path):
    golds = [json.loads(line)["meaning_representation"] for line in open(path, encoding="utf-8")]
    rows = list(cases(golds))
    with tempfile.TemporaryDirectory() as folder:
        data, predictions, scored = (Path(folder) / name for name in ("data.jsonl", "predictions.jsonl", "rows.jsonl"))
        data.write_text("".join(json.dumps({"target": "", "meaning_representation": row["gold"]}) + "\n" for row in rows))
        predictions.write_text("".join(json.dumps({"prediction": row["prediction"]}) + "\n" for row in rows))
        command = [program, "score", "--task", "functional", "--data", data, "--predictions", predictions, "--rows", scored]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ours = [json.loads(line) for line in open(scored, encoding="utf-8")]
    differ = 0
    for row, scored_row in zip(rows, ours, strict=True):
        wrong = [name for name, value in row["metrics"].items() if not is_equal(scored_row["metrics"][name], value)]
        if wrong or row["malformed"] != (scored_row["status"] == "prediction_error"):
            differ += 1
            if differ <= 10:
                print(f"{row['kind']}: {wrong}\n  gold {row['gold']}\n  predicted {row['prediction']}\n  {scored_row['metrics']} {row['metrics']}")
    print(f"{path}: {len(golds)} lines, {len(rows)} predictions, {differ} differ")
    return differ


def main(arguments):
    if arguments[0] == "--golden":
        golden = {"made_by": "scripts/check_functional.py --golden", "rows": list(cases(MADE_UP))}
        Path(arguments[1]).write_text(json.dumps(golden, indent=0) + "\n")
        return 0
    return 1 if sum(check(arguments[0], path) for path in arguments[1:]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
