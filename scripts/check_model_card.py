"""Reads model cards as the hub does: the YAML in front must parse and mean what rag-tune wrote.

needs   Python 3.11 with huggingface_hub
run     python scripts/check_model_card.py RUN_FOLDER...
"""

import sys
from pathlib import Path

from huggingface_hub import ModelCard

for folder in sys.argv[1:]:
    card = ModelCard.load(Path(folder) / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "peft" and data["pipeline_tag"] == "text-generation", data
    assert {"lora", "text-generation", "rag-tune"} <= set(data["tags"]), data
    assert "license" not in data, "the licence is the base's and the data set's affair"
    assert card.text.lstrip().startswith("# "), "the text follows the front matter"
    print(folder, data)
