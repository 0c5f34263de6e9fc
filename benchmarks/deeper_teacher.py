"""A teacher of six and six layers, grown from one of four and four, for the students 6+1 and 3+1.

    python benchmarks/deeper_teacher.py --teacher DIR --data DIR --labels DIR --output DEEPER

Two layers of either stack are put in a second time, the outputs of the copies halved, so that the deeper model starts
near the shallower one and its new layers take part in what it computes. It then learns from the gold targets and the
shallower teacher's own translations together. Progressive stacking: Gong et al., ICML 2019. Prints BLEU on validation
and test, greedy and with a beam of 4. An interrupted run goes on from its last checkpoint, in ``OUTPUT.runs``.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from datasets import concatenate_datasets
from run import training_arguments
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq, MarianMTModel

from hf_weight_distill import WeightDistillTrainer
from hf_weight_distill.data import load_pairs, tokenize_pairs
from hf_weight_distill.evaluation import compute_scores, translate
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.teachers.pseudo_labels import generate_pseudo_labels, teacher_pairs

LAYERS = (0, 1, 1, 2, 2, 3)  # of the shallower stack
OUTPUTS = ("out_proj", "fc2")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a Marian model of 4+4 layers")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--labels", required=True, type=Path, help="the teacher's translations, made here if missing")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def grown(shallow: MarianMTModel) -> MarianMTModel:
    """The deeper model: layers ``LAYERS`` of both stacks, the outputs of every repeated layer halved."""
    deep = copy.deepcopy(shallow)
    for stack in (deep.model.encoder, deep.model.decoder):
        layers = torch.nn.ModuleList(copy.deepcopy(stack.layers[index]) for index in LAYERS)
        repeated = [layer for i, layer in enumerate(layers) if LAYERS[i] in LAYERS[:i]]
        for name, parameter in torch.nn.ModuleList(repeated).named_parameters():
            if name.split(".")[-2] in OUTPUTS:
                parameter.data *= 0.5
        stack.layers = layers
    deep.config.encoder_layers = deep.config.decoder_layers = len(LAYERS)
    return MarianMTModel.from_pretrained(None, config=deep.config, state_dict=deep.state_dict())


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    shallow = AutoModelForSeq2SeqLM.from_pretrained(options.teacher, attn_implementation="eager")
    gold = load_pairs(str(options.data / "train.jsonl.gz"))
    labelled = generate_pseudo_labels(shallow, tokenizer, gold, options.labels, num_beams=4, batch_size=64)
    both = concatenate_datasets([gold.select_columns(["source", "target"]), teacher_pairs(labelled)])
    deep, runs = grown(shallow), options.output.with_name(f"{options.output.name}.runs")
    torch.manual_seed(1)
    trainer = WeightDistillTrainer(
        deep,
        args=training_arguments(runs, options.updates, options.learning_rate, seed=1),
        objectives=build_objectives({"cross_entropy": 1.0}, label_smoothing=0.1),
        train_dataset=tokenize_pairs(both, tokenizer),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train(resume_from_checkpoint=any(runs.glob("checkpoint-*")))
    deep.config.use_cache = True  # the trainer switches it off
    deep.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    scores = {}
    for split in ("validation", "test"):
        pairs = load_pairs(str(options.data / f"{split}.jsonl.gz"))
        for beams in (1, 4):
            found = translate(deep, tokenizer, pairs["source"], batch_size=64, num_beams=beams)
            scores[f"{split}_bleu_beam_{beams}"] = round(compute_scores(found, list(pairs["target"]))["bleu"], 2)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
