#!/usr/bin/env python3
"""Tiny encoders with random weights, and what sentence-transformers makes of a few texts with them.

Writes one folder per model, and golden.json, into crates/rag-tune-augment/tests/fixtures/encoders/, which
tests/encoders.rs of that crate checks. The families, tokenizer types, poolings and prompts differ from model to model.

    scripts/python-env.sh .cache/python
    .cache/python/bin/python scripts/golden_encoders.py
"""

import json
import shutil
from pathlib import Path

import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FIXTURES = Path(__file__).parents[1] / "crates/rag-tune-augment/tests/fixtures/encoders"

TEXTS = [
    "How many heads of the departments are older than 56 ?",
    "  two  spaces,\tand a tab ",
    "",
    "Café, naïve – 日本語 🙂",
    "word " * 60,  # beyond every model's limit
]

CORPUS = TEXTS + [
    "Which singers are from France? List name, country and age, ordered by age.",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "Have you ever given up on a game like that, only to find it was really good on the PlayStation?",
]

SIZES = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    initializer_range=0.3,
)


def word_piece(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=list(special)))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer, dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def word_piece_of_mpnet():
    return word_piece(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])  # MPNet takes 1 for the padding's id


def of_roberta(tokenizer, trainer):
    tokenizer.train_from_iterator(CORPUS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return tokenizer, dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>")


ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # in this order: the padding's id is 1


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=ROBERTA_SPECIAL, unk_token="<unk>")
    return of_roberta(tokenizer, trainer)


def byte_pairs():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=ROBERTA_SPECIAL, initial_alphabet=alphabet)
    return of_roberta(tokenizer, trainer)


def distilbert_config(vocab_size, **kwargs):
    return transformers.DistilBertConfig(
        vocab_size=vocab_size, dim=24, n_layers=2, n_heads=3, hidden_dim=40, initializer_range=0.3, **kwargs
    )


def config_of(kind, **settings):
    return lambda vocab_size, **kwargs: kind(vocab_size=vocab_size, **SIZES, **settings, **kwargs)


# name: (tokenizer, config, positions, pooling, further modules, prompts, default prompt, max_seq_length)
MODELS = {
    "bge": (word_piece, config_of(transformers.BertConfig), 40, "cls", [Normalize()], {"query": "Find: "}, None, None),
    "e5_multilingual": (unigram, config_of(transformers.XLMRobertaConfig, type_vocab_size=1), 34, "mean", [], {}, None, 30),
    "roberta": (byte_pairs, config_of(transformers.RobertaConfig, hidden_act="relu"), 34, "max", [],
                {"query": "query: ", "passage": "passage: "}, "query", None),
    "distilbert": (word_piece, distilbert_config, 32, "lasttoken", [], {}, None, 20),
    "mpnet": (word_piece_of_mpnet, config_of(transformers.MPNetConfig), 42, "mean", [Normalize()], {}, None, None),
    "dense": (word_piece, config_of(transformers.BertConfig, hidden_act="gelu_new"), 40, ("mean", "weightedmean"),
              [Dense(48, 10, activation_function=torch.nn.Tanh())], {}, None, None),
}


def old_format(folder):
    """As an older release writes it: a boolean per pooling, and the class name before each tensor."""
    path = folder / "1_Pooling/config.json"
    mode = json.loads(path.read_text())["pooling_mode"]
    names = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    on = {f"pooling_mode_{name}": name.split("_")[0] == mode for name in names}
    on["pooling_mode_mean_sqrt_len_tokens"] = False
    path.write_text(json.dumps({"word_embedding_dimension": 24, **on}, indent=1) + "\n")
    weights = load_file(folder / "model.safetensors")
    save_file({f"roberta.{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def make(name, folder):
    tokenizer, config, positions, pooling, further, prompts, default, max_seq_length = MODELS[name]
    tokenizer, special = tokenizer()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=1000, **special)
    config = config(tokenizer.get_vocab_size(), max_position_embeddings=positions,
                    pad_token_id=tokenizer.token_to_id(special["pad_token"]))
    plain = folder / "plain"
    transformers.AutoModel.from_config(config).save_pretrained(plain)
    wrapped.save_pretrained(plain)
    # RoBERTa and its kin have two positions fewer than their table has rows.
    limit = max_seq_length or positions - (2 if config.model_type in ("roberta", "xlm-roberta", "mpnet") else 0)
    transformer = Transformer(str(plain), max_seq_length=limit)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), *further]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name=default)
    model.save(str(folder), create_model_card=False)
    shutil.rmtree(plain)
    length = folder / "sentence_bert_config.json"
    length.write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}) + "\n")
    if name == "e5_multilingual":
        old_format(folder)
    return SentenceTransformer(str(folder), device="cpu")


def main():
    torch.manual_seed(7)
    shutil.rmtree(FIXTURES, ignore_errors=True)
    golden = {
        "made_by": f"golden_encoders.py, sentence-transformers {sentence_transformers.__version__}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}",
        "texts": TEXTS,
        "cases": [],
    }
    for name in MODELS:
        model = make(name, FIXTURES / name)
        asked = ["", *model.prompts] + (["query: "] if name == "e5_multilingual" else [])
        for prompt in asked:
            named = {"prompt": prompt} if prompt.endswith(" ") else {"prompt_name": prompt or None}
            with torch.no_grad():
                vectors = model.encode(TEXTS, normalize_embeddings=True, **named)
            rounded = [[round(float(x), 7) for x in vector] for vector in vectors]
            golden["cases"].append({"model": name, "prompt": prompt, "vectors": rounded})
        print(name, model.max_seq_length, dict(model.prompts), vectors[0][:3])
    (FIXTURES / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
