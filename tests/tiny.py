"""Tiny models and tokenizers for the tests, built in code."""

import json
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

SENTENCES = (
    "two dogs run across the green meadow",
    "a man rides his old bike to work",
    "the child reads a small book in the garden",
    "three women talk about the long day",
    "a cat sleeps on the warm roof",
    "zwei Hunde laufen über die grüne Wiese",
    "ein Mann fährt mit dem alten Rad zur Arbeit",
    "das Kind liest im Garten ein kleines Buch",
    "drei Frauen reden über den langen Tag",
    "eine Katze schläft auf dem warmen Dach",
)


def tiny_marian_tokenizer(folder) -> MarianTokenizer:
    """A MarianTokenizer with the layout of the public checkpoints: `</s>` 0, `<unk>` 1, pieces, `<pad>` last.

    `folder` is made if missing and holds vocab.json, source.spm and target.spm afterwards.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "source.spm").open("wb") as model_writer:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=model_writer,
            vocab_size=80,
            hard_vocab_limit=False,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    names = ["</s>", "<unk>", *(name for name in names if name not in ("</s>", "<unk>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    return MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang="en",
        target_lang="de",
    )


def tiny_marian_model(tokenizer, *, decoder_layers: int = 2, seed: int = 0, **config) -> MarianMTModel:
    """A random MarianMTModel for `tokenizer`, made so that different sources translate differently."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": decoder_layers,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 160,
        "init_std": 0.6,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        **config,
    }
    model = MarianMTModel(MarianConfig(**settings)).eval()
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    # With tied random embeddings each token calls for itself: without this, every output is one token repeated.
    model.generation_config.no_repeat_ngram_size = 1
    return model
