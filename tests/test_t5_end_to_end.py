"""A T5 teacher, trained on the built-in corpus, distilled through the command line."""

import json

import pytest
import torch
from training import arguments
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from hf_weight_distill.cli import main
from hf_weight_distill.corpus import build_t5_tokenizer, built_in_corpus
from hf_weight_distill.data import load_pairs, tokenize_pairs
from hf_weight_distill.distiller import DataCollatorForSeq2Seq
from hf_weight_distill.evaluation import compute_scores, translate
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.trainer import WeightDistillTrainer

PREFIX = "translate English to German: "
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The corpus as files."""
    folder, splits = tmp_path_factory.mktemp("corpus"), built_in_corpus(6000, 100, 100)
    for name, split in splits.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row["translation"], ensure_ascii=False) + "\n" for row in split)
    return folder


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    """A small T5 (2 + 2 layers, width 96), trained for a minute or two."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    pairs = load_pairs(corpus / "train.jsonl", source_column="en", target_column="de")
    tokenizer = build_t5_tokenizer([PREFIX, *pairs["source"], *pairs["target"]], folder, vocab_size=1200)
    config = T5Config(
        vocab_size=1200, d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    config.dropout_rate = 0.0
    model = T5ForConditionalGeneration(config)
    args = arguments(
        folder,
        max_steps=700,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        max_tokens_per_batch=1500,
    )
    WeightDistillTrainer(
        model,
        args=args,
        objectives=build_objectives({"cross_entropy": 1.0}),
        train_dataset=tokenize_pairs(pairs, tokenizer, prefix=PREFIX),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    ).train()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_t5_teacher_is_distilled_by_the_same_command(teacher, corpus, tmp_path):
    columns = ["--source_column", "en", "--target_column", "de"]
    steps = ["max_tokens_per_batch=1500", "use_cpu=true", "disable_tqdm=true", "logging_steps=50"]
    command = ["distill", str(teacher), "--train", str(corpus / "train.jsonl"), *columns, "--prefix", PREFIX]
    command += ["--decoder_layers", "1", "--pseudo_labels", "none", "--output_dir", str(tmp_path / "run")]
    command += ["--generator_args", "max_steps=100", *steps, "--finetune_args", "max_steps=200", *steps]
    assert main(command) == 0
    folder = tmp_path / "run" / "student"
    student, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(student) is T5ForConditionalGeneration and student.config.num_decoder_layers == 1
    pairs = load_pairs(corpus / "test.jsonl", source_column="en", target_column="de")
    sources = [PREFIX + source for source in pairs["source"]]
    models = AutoModelForSeq2SeqLM.from_pretrained(teacher), student
    bleu = [compute_scores(translate(m, tokenizer, sources), list(pairs["target"]))["bleu"] for m in models]
    print("teacher and student BLEU", bleu)
    assert bleu[0] > 8, "the teacher learned nothing"
    assert bleu[1] > 0.35 * bleu[0], "300 updates give about half of it"
