"""Makes tests/fixtures/golden/gsm8k.json: verdicts of lm-evaluation-harness on worked answers, and exact values of sums.

    python -m venv ENV && ENV/bin/pip install lm_eval==0.4.13
    ENV/bin/python scripts/golden_gsm8k.py tests/fixtures/golden/gsm8k.json
    ENV/bin/python scripts/golden_gsm8k.py --data test.jsonl PREDICTIONS.jsonl    only prints lm-eval's figures

The problems are made up here; no row of GSM8K is copied. Filters and metric are the harness's own code, with the
settings of the gsm8k.yaml in its package. The values of the sums are Python's fractions.
"""

import importlib.metadata
import json
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

import lm_eval
import yaml
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter

# Worked answers, the result being a whole number as everywhere in GSM8K.
WORKED = [
    ("6 crates of 12 are 6*12=<<6*12=72>>72 jars.\nWithout the broken ones it is 72-5=<<72-5=67>>67 jars.", "67"),
    ("She walks 3*4=<<3*4=12>>12 km.\nAt 4 km an hour that takes 12/4=<<12/4=3>>3 hours.", "3"),
    ("The desk costs 2*150=$<<2*150=300>>300.\nWith tax it is 300*1.05=$<<300*1.05=315>>315.", "315"),
    ("There are 40*50=<<40*50=2000>>2,000 seats.\nHalf are taken: 2,000/2=<<2000/2=1000>>1,000.", "1,000"),
    ("The mine gives 12*100,000=<<12*100000=1200000>>1,200,000 tons.", "1,200,000"),
    ("It was 4 degrees and falls by 9: 4-9=<<4-9=-5>>-5.", "-5"),
    ("20% of 85 are .2*85=<<.2*85=17>>17 pages.", "17"),
    ("He has no coins left: 8-8=<<8-8=0>>0.", "0"),
    ("Her share is 1/4 of 480: 480/4=<<480/4=120>>120 dollars.", "120"),
    ("A ticket is $7.50, so 4 are 7.5*4=$<<7.5*4=30>>30.", "30"),
]

# What models make of it: the steps and the result in, a text out.
FORMS = {
    "gold": "{steps}\n#### {n}",
    "no commas": "{steps}\n#### {plain}",
    "trailing point": "{steps}\n#### {n}.",
    "unit": "{steps}\n#### {n} units",
    "equation": "{steps}\n#### x = {n}",
    "dollar": "{steps}\n#### ${n}",
    "dollar behind": "{steps}\n#### {n}$",
    "cents": "{steps}\n#### {plain}.00",
    "percent": "{steps}\n#### {n}%",
    "no space": "{steps}\n####{n}",
    "two spaces": "{steps}\n####  {n}",
    "three signs": "{steps}\n### {n}",
    "five signs": "{steps}\n##### {n}",
    "words": "{steps}\nThe answer is {n}.",
    "words and dollar": "{steps}\nThe answer is ${n}.",
    "bold": "{steps}\n**{n}**",
    "boxed": "{steps}\nThe answer is $\\boxed{{{n}}}$.",
    "steps only": "{steps}",
    "bare": "{n}",
    "wrong": "{steps}\n#### {other}",
    "wrong, then right": "{steps}\n#### {other}\n#### {n}",
    "right, then wrong": "{steps}\n#### {n}\n#### {other}",
    "right, then another problem": "{steps}\n#### {n}\n\nProblem:\nTom has 4 kites and 9 strings.",
    "broken off": "{half}",
    "ellipsis": "{steps}\nSo it is {n}...",
    "dashes": "{steps}\n#### {n} - done",
    "range": "{steps}\n#### 1-{plain}",
    "fraction": "{steps}\n#### {plain}/1",
    "leading zero": "{steps}\n#### {padded}",
    "unicode minus": "{steps}\n#### \u2212{plain}",
    "windows lines": "{steps}\r\n#### {n}\r\n",
    "list": "The numbers are 10,20,{plain}",
    "upper-case words": "THE ANSWER IS {n} DOLLARS",
}

# Texts that are about nothing but their form; the gold answer is 72.
ODD = [
    "", " ", "\n", "####", "#### ", "#### ?", "#### .", "#### ,", "#### -", "#### --72", "#### - 72", "#### +72", "####\n72",
    "#### 72", " #### 72", "#### 72 ", "#### 72\n", "#### 7 2", "#### 72..", "#### 72,", "#### ,72", "#### .72", "#### 7.2", "#### 7,2",
    "#### 72e0", "#### 72/1", "#### 144/2", "#### 72 / 1", "#### seventy-two", "####\t72", "#### \u00a072", "#### \uff17\uff12",
    "#### $72", "#### $ 72", "#### \u20ac72", "#### 72\u20ac", "#### 72%", "#### -72", "#### (72)", "#### [72]", "#### *72*", "#### `72`",
    "#### 72 #### 73", "#### 73 #### 72", "#### x #### 72", "#### 72####73", "no number", "a.b.c", "...", "so 72 ...", "so 72 , then",
    "72", "72.", "72.0", "72.00", "72.5", "072", "-72", "+72", "$72", "72$", "$72.00", "72,", "7,2", "72 71", "71 72", "71-72", "71 - 72", "71 -72",
    "0-72", "x-72", "(5)-72", "=-72", "= -72", "\u221272", "=\u221272", "-$72", "$-72", "72/1", "144/2", "7/0", "71/72", "1/72/72", "2/72", "72nd",
    "A72", "72A", "7 2", "72 000", "72,000", "72.000", "72,00", "1,72", "72;", "72:", "72!", "72?", "<<70+2=72>>", "<<70+2=72>>72", "72 ($72)",
    "72%", "72 %", "0.72", ".72", "7.2e1", "72.72.72", "72-", "72--", "$", "$$", "$.", "$,", "72 $", "72 $$", "72 .", "72 ..", "72 ,", "72, 73",
    "72,73", "72, and that is all", "72 and 0", "12:72", "#72", "No. 72", "72 (seventy-two)", "It is 72.\n\n\n", "It is 72.\u200b",
]


def sums(count):
    """Random expressions with their exact value, and with results that are right, rounded, and wrong by two in the last place."""
    chance = random.Random(5)

    def number():
        form = chance.choice(["{}", "{}", "{}", "{}.5", "0.{}", ".{}", "{}00"])
        return form.format(chance.randint(1, 99))

    def expression(depth):
        if depth == 0 or chance.random() < 0.2:
            return number()
        left, right = expression(depth - 1), expression(depth - 1)
        text = left + chance.choice("+-*/") + right
        return f"({text})" if chance.random() < 0.4 else text

    cases = []
    while len(cases) < count:
        text = expression(chance.randint(1, 4))
        exact = re.sub(r"\d*\.?\d+", lambda found: f"Fraction('{found[0]}')", text)
        try:
            value = eval(exact)  # the text is made above
        except ZeroDivisionError:
            continue
        form = chance.choice(["exact", "rounded", "off"])
        if form == "exact":
            if value.denominator not in (1, 2, 4, 5, 8, 10, 20, 25, 50, 100):
                continue
            result = str(float(value)) if value.denominator > 1 else str(value)
            if "e" in result or Fraction(result) != value:
                continue
        else:
            places = chance.choice([2, 3])
            nearest = round(value * 10**places) + (2 if form == "off" else 0)
            result = f"{'-' if nearest < 0 else ''}{abs(nearest) // 10**places}.{abs(nearest) % 10**places:0{places}}"
        cases.append({"text": f"{text}={result}", "right": form != "off"})
    return cases


def verdicts(pairs):
    """For each pair of gold and prediction, whether lm-eval calls it right, by filter."""
    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    metric = config["metric_list"][0]
    kept = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")
    settings = {name: metric[name] for name in kept}
    result = {}
    for pipeline in config["filter_list"]:
        arguments = dict(pipeline["filter"][0])
        assert arguments.pop("function") == "regex" and pipeline["filter"][1] == {"function": "take_first"}
        extracted = RegexFilter(**arguments).apply([[prediction] for _, prediction in pairs], [])
        result[pipeline["name"]] = [
            bool(exact_match_hf_evaluate(predictions=[found[0]], references=[gold], **settings)["exact_match"])
            for found, (gold, _) in zip(extracted, pairs)
        ]
    return result["strict-match"], result["flexible-extract"]


def cases():
    for steps, n in WORKED:
        plain = n.replace(",", "")
        other = str(int(plain) + 1)
        half = steps[: len(steps) // 2]
        for name, form in FORMS.items():
            padded = f"{int(plain):+010}".lstrip("+")
            text = form.format(steps=steps, n=n, plain=plain, padded=padded, other=other, half=half)
            yield name, f"{steps}\n#### {n}", text
    for text in ODD:
        yield "odd", "70+2=<<70+2=72>>72\n#### 72", text


def read(path, column):
    return [json.loads(line)[column] for line in open(path, encoding="utf-8")]


def main(arguments):
    if arguments[0] == "--data":
        pairs = list(zip(read(arguments[1], "answer"), read(arguments[2], "prediction"), strict=True))
        for name, right in zip(("strict", "flexible"), verdicts(pairs)):
            print(f"{name} {sum(right)} of {len(right)}")
        return
    rows = list(cases())
    strict, flexible = verdicts([(gold, text) for _, gold, text in rows])
    golden = {
        "made_by": f"scripts/golden_gsm8k.py, lm_eval {importlib.metadata.version('lm_eval')}",
        "answers": [
            {"form": form, "gold": gold, "prediction": text, "strict": s, "flexible": f}
            for (form, gold, text), s, f in zip(rows, strict, flexible)
        ],
        "sums": sums(200),
    }
    Path(arguments[0]).write_text(json.dumps(golden, indent=0, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
