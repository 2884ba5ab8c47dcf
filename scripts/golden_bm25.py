"""Makes crates/rag-tune-augment/tests/fixtures/golden_bm25.json: BM25 scores by bm25s.

    pip install bm25s==0.3.16
    python scripts/golden_bm25.py

No two words have one stem, and none is a stop word, so that both sides score the same tokens. bm25s's "lucene" variant has
the same idf; it leaves out the factor k1 + 1, which ranks nothing differently and is put back here.
"""

import json
from pathlib import Path

import bm25s

K1, B = 1.2, 0.75
DOCUMENTS = [
    "singer concert stadium",
    "singer singer song",
    "stadium capacity year year year song singer",
    "pet dog weight",
    "dog dog dog cat cat pet owner weight age",
    "airport flight city",
    "singer",
]
QUERIES = ["singer song", "dog dog weight", "stadium singer year city", "train", "pet cat owner"]


def main():
    index = bm25s.BM25(method="lucene", k1=K1, b=B, dtype="float64")
    index.index([document.split() for document in DOCUMENTS], show_progress=False)
    known = set(" ".join(DOCUMENTS).split())

    def scores(query):
        words = [word for word in query.split() if word in known]
        if not words:
            return [0.0] * len(DOCUMENTS)
        return [round(float(score) * (K1 + 1), 6) for score in index.get_scores(words)]

    golden = {
        "made_by": f"scripts/golden_bm25.py, bm25s {bm25s.__version__}",
        "documents": DOCUMENTS,
        "queries": QUERIES,
        "scores": [scores(query) for query in QUERIES],
    }
    path = Path(__file__).parent.parent / "crates/rag-tune-augment/tests/fixtures/golden_bm25.json"
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
