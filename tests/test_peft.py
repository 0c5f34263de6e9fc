"""Adapters at both ends, a teacher's and a student's: numbers against W + (alpha / r) B A, and what cannot be."""

import contextlib
import copy
import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from loopback_hub import client_of, loopback_hub
from models import random_batch, tiny_teacher
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from training import random_features
from transformers import (
    AutoModelForSeq2SeqLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianMTModel,
    TrainerCallback,
)

from hf_weight_distill import StudentShape, WeightDistillConfig, WeightDistiller
from hf_weight_distill import data as data_module
from hf_weight_distill import distiller as module
from hf_weight_distill.adapters import MergedAdapter, add_lora, load_teacher, load_tokenizer, merge_adapters
from hf_weight_distill.cli import main
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.plan import build_plan, tensors_of

SHAPE = StudentShape(decoder_layers=1)
FAST = {"max_steps": 3, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
CONFIG = WeightDistillConfig(generator_args=FAST, finetune_args=FAST)
PAIRS = Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})
TARGETS = {"marian": ["q_proj", "v_proj", "fc1"], "m2m_100": ["k_proj", "out_proj", "fc2"], "t5": ["q", "v", "wo"]}
FAMILIES = list(TARGETS)
# All attention and feed-forward matrices, by the names that each family gives them.
LINEAR = {
    "marian": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "m2m_100": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "flan-t5": {"q", "k", "v", "o", "wi_0", "wi_1", "wo"},
}


def adapted(base, **options):
    """A LoRA model whose adapters do something."""
    config = LoraConfig(**{"r": 2, "lora_alpha": 6, "init_lora_weights": False, "lora_dropout": 0.5} | options)
    return get_peft_model(base, config)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def merged_by_hand(weights, adapter, scale):
    """`weights` with `scale * B @ A` added where the adapter's file has a pair."""
    names = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in adapter}
    assert names
    found = dict(weights)
    for name in names:
        a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        found[f"{name}.weight"] = (weights[f"{name}.weight"].double() + scale * b @ a).float()
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Marian checkpoint with tokenizer and card."""
    folder = tmp_path_factory.mktemp("peft") / "base"
    tokenizer = tiny_marian_tokenizer(folder)
    model = tiny_marian_model(tokenizer)
    with torch.no_grad():
        model.model.shared.weight[tokenizer.pad_token_id] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\nbase_model: someone/big\n---\n# Base\n")
    return folder


@pytest.fixture(scope="module")
def adapter(base):
    """Its LoRA adapter, without a tokenizer of its own."""
    folder = base.parent / "adapter"
    torch.manual_seed(3)
    adapted(AutoModelForSeq2SeqLM.from_pretrained(base), target_modules=TARGETS["marian"]).save_pretrained(folder)
    return folder


def load(folder, **options):
    return WeightDistiller.from_pretrained(folder, **{"config": CONFIG, "student": SHAPE} | options)


# --- the teacher's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_a_merged_copy_of_a_peft_model(family, tmp_path):
    plain = tensors_of(tiny_teacher(family))
    model = adapted(tiny_teacher(family), target_modules=TARGETS[family], use_rslora=False)
    model.save_pretrained(tmp_path)
    before = copy.deepcopy(model.state_dict())
    model.train()
    teacher = WeightDistiller(model, student=SHAPE).teacher
    assert type(teacher) is type(tiny_teacher(family)) and not hasattr(teacher, "peft_config")
    expected = merged_by_hand(plain, load_file(tmp_path / "adapter_model.safetensors"), scale=6 / 2)
    assert set(expected) == set(tensors_of(teacher))
    for name, tensor in tensors_of(teacher).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
    # the user's own model is as it was
    assert isinstance(model, PeftModel) and model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    batch = random_batch(teacher)
    assert (logits(teacher, batch) - logits(model.eval(), batch)).abs().max() < 1e-5
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_transformers_model_with_an_adapter_inside(base, adapter):
    model = AutoModelForSeq2SeqLM.from_pretrained(adapter)  # what this line gives is no PeftModel
    assert type(model) is MarianMTModel and hasattr(model, "peft_config")
    names = [name for name, _ in model.named_parameters()]
    teacher = WeightDistiller(model, student=SHAPE).teacher
    expected = merged_by_hand(
        tensors_of(AutoModelForSeq2SeqLM.from_pretrained(base)), load_file(adapter / "adapter_model.safetensors"), 3.0
    )
    for name, tensor in tensors_of(teacher).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
    assert [name for name, _ in model.named_parameters()] == names
    assert teacher.merged_adapter == MergedAdapter("LORA", str(base))


def test_other_methods_merge_as_well():
    config = IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
    model = get_peft_model(tiny_teacher("t5"), config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ia3" in name:
                p.mul_(1 + 0.3 * torch.randn_like(p))
    teacher = WeightDistiller(model, student=SHAPE).teacher
    batch = random_batch(teacher)
    assert (logits(teacher, batch) - logits(model, batch)).abs().max() < 1e-5
    assert teacher.merged_adapter.kind == "IA3"


def test_an_adapter_folder_is_a_teacher(base, adapter, tmp_path):
    distiller = load(adapter)
    expected = merged_by_hand(
        tensors_of(AutoModelForSeq2SeqLM.from_pretrained(base)), load_file(adapter / "adapter_model.safetensors"), 3.0
    )
    for name, tensor in tensors_of(distiller.teacher).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
    assert distiller.description()["teacher"] == str(adapter)
    assert len(distiller.tokenizer) == 81  # the base's: the folder has none
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert "distilled from `adapter`, a LORA adapter of `base`" in card.text and str(base.parent) not in str(card)
    assert card.data.license == "cc-by-4.0"  # of the base's card: the adapter's has none


def test_an_adapter_that_transformers_saved_is_a_teacher(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    bare = {"task_type": None, "auto_mapping": None}  # as model.add_adapter and save_pretrained leave them
    file.write_text(json.dumps(json.loads(file.read_text()) | bare))
    expected, found = (tensors_of(load(folder).teacher) for folder in (adapter, tmp_path / "adapter"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_adapter_stays_the_teacher_when_its_vocabulary_is_cut(base, adapter):
    distiller = load(adapter, student=StudentShape(decoder_layers=1, vocab=40))
    distiller.trim_vocabulary(PAIRS)
    assert distiller.description()["teacher"] == str(adapter)
    assert distiller._card(model_name="x").teacher_name == str(adapter)


def test_an_adapter_brings_its_own_tokenizer_if_it_has_one(base, adapter, tmp_path):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer = load_tokenizer(str(base))
    tokenizer.model_max_length = 33
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).model_max_length == 33 != load_tokenizer(str(adapter)).model_max_length


def test_an_adapter_and_its_base_come_from_the_hub(base, adapter, tmp_path):
    def files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "a/base"}
    with loopback_hub() as hub, client_of(hub, tmp_path / "home"):
        there = {**files(adapter), "adapter_config.json": json.dumps(config).encode()}
        hub.branches["a/base"] = {"main": files(base)}
        hub.branches["a/lora"] = {"main": {}, "v2": there}
        distiller = load("a/lora", revision="v2")  # of the adapter, not of the base
        distiller.save_pretrained(tmp_path / "student")
        assert torch.equal(distiller.teacher.lm_head.weight, load_teacher(str(adapter)).lm_head.weight)
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.base_model == ["a/lora", "a/base"] and card.data.base_model_relation == "finetune"
    assert "[a/lora](https://huggingface.co/a/lora)" in card.text
    assert "a LORA adapter of [a/base](https://huggingface.co/a/base)" in card.text


def test_a_run_with_an_adapter_from_memory_says_that_it_cannot_be_repeated(base, tmp_path):
    model = adapted(AutoModelForSeq2SeqLM.from_pretrained(base), target_modules=["q_proj"])
    distiller = WeightDistiller(model, load_tokenizer(str(base)), student=SHAPE, config=CONFIG)
    assert distiller.description()["teacher"] == ""  # nothing that could be loaded again
    distiller.save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert "made without training from `an adapter in memory`, a LORA adapter of `base`" in card


def test_an_adapter_without_its_base(adapter, tmp_path):
    for path in adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name in ("/gone/base", None):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        with pytest.raises(ValueError, match=f"belongs to the model {name!r}, which cannot be loaded.*PeftModel.from_"):
            load(tmp_path)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_adapters_that_change_no_weights_are_refused_with_the_reason(kind, tmp_path):
    config = kind(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    model = get_peft_model(tiny_teacher("t5"), config)
    message = f"a {config.peft_type.value} adapter feeds learned inputs to the model and changes no weights"
    with pytest.raises(ValueError, match=message):
        WeightDistiller(model, student=SHAPE)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):  # before a base is looked for
        load(tmp_path)


def test_merging_that_would_change_the_model_is_refused():
    tied = adapted(tiny_teacher("t5"), target_modules=["q", "shared"])
    with pytest.raises(ValueError, match="targets base_model.model.shared, whose weights are tied"):
        WeightDistiller(tied, student=SHAPE)
    apart = adapted(tiny_teacher("marian"), target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="trained lm_head.weight apart from the weights that the MarianMTModel ties"):
        WeightDistiller(apart, student=SHAPE)
    broken = adapted(tiny_teacher("marian"), target_modules=["q_proj"])
    broken.base_model.model.lm_head.register_forward_hook(lambda m, i, o: o if not hasattr(m, "off") else 2 * o)
    real = type(broken.base_model).merge_and_unload
    with pytest.MonkeyPatch.context() as patch:  # a method of PEFT that merges wrongly

        def wrong(self, **kwargs):
            merged = real(self, **kwargs)
            merged.lm_head.off = True
            return merged

        patch.setattr(type(broken.base_model), "merge_and_unload", wrong)
        with pytest.raises(ValueError, match="computes other logits .*cannot be expressed as weights"):
            merge_adapters(broken)


def test_rounded_bases_are_refused(base):
    half = adapted(AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.bfloat16), target_modules=["q_proj"])
    with pytest.raises(ValueError, match="torch.bfloat16 weights.*dtype=torch.float32"):
        WeightDistiller(half, student=SHAPE)
    quantized = adapted(AutoModelForSeq2SeqLM.from_pretrained(base), target_modules=["q_proj"])
    quantized.base_model.model.config.quantization_config = {"load_in_4bit": True}  # as Transformers marks one
    with pytest.raises(ValueError, match="the teacher is quantized.*without quantization_config"):
        WeightDistiller(quantized, student=SHAPE)


def test_without_peft_the_error_names_the_extra(adapter, base, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    message = r'needs peft, which is not installed: pip install "hf_weight_distill\[peft\]"'
    with pytest.raises(ValueError, match=message):
        load(adapter)
    with pytest.raises(ValueError, match=message):
        load(base, config=replace(CONFIG, finetune_lora={"r": 2})).distill(PAIRS, output_dir=tmp_path / "run")
    assert load(base).teacher is not None and not (tmp_path / "run").exists()


# --- the student's ---------------------------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Sizes that training has."""

    def __init__(self):
        self.trained, self.states = {}, {}

    def on_train_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        phase = Path(args.output_dir).name
        self.trained[phase] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        values = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.dim()]
        self.states[phase] = sum(v.numel() for v in values)


@pytest.mark.parametrize("family", LINEAR)
def test_phase_2_trains_adapters_on_every_matrix_and_merges_them(family, tmp_path):
    lora = {"r": 2, "lora_alpha": 6, "lora_dropout": 0.1}
    saving = FAST | {"save_strategy": "steps", "save_steps": 3}
    config = replace(CONFIG, finetune_lora=lora, finetune_args=saving)
    distiller = WeightDistiller(tiny_teacher(family), student=SHAPE, config=config)
    watch = Watch()
    student = distiller.distill(random_features(), output_dir=tmp_path / "run", callbacks=[watch])
    assert type(student) is type(distiller.teacher) and not hasattr(student, "peft_config")
    assert not student.training and student.config.use_cache
    adapter = load_file(tmp_path / "run/finetune/checkpoint-3/adapter_model.safetensors")
    targets = {name.split(".lora_")[0].removeprefix("base_model.model.") + ".weight" for name in adapter}
    matrices = {name for name, tensor in student.named_parameters() if tensor.dim() == 2}
    linear = {name for name in matrices if name.split(".")[-2] in LINEAR[family]}
    assert targets == linear and len(linear) == len([n for n in linear if re.search(r"layers|block", n)])
    generated = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run/generated_student")
    expected = merged_by_hand(tensors_of(generated), adapter, scale=6 / 2)
    for name, tensor in tensors_of(student).items():
        if name in linear:
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
            assert not torch.equal(tensor, tensors_of(generated)[name]), f"{name} has learned nothing"
        else:
            assert torch.equal(tensor, tensors_of(generated)[name]), name
    assert student.config.tie_word_embeddings == generated.config.tie_word_embeddings
    count = sum(2 * sum(tensors_of(student)[name].shape) for name in linear)  # r (in + out)
    assert watch.trained["finetune"] == count == distiller.summary["lora"]["trainable_parameters"]
    assert watch.states["finetune"] == 2 * count  # Adam's two moments
    distiller.save_pretrained(tmp_path / "student")
    batch = random_batch(student)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student").eval()
    assert torch.equal(logits(loaded, batch), logits(student, batch))
    card = (tmp_path / "student" / "README.md").read_text()
    assert "2106.09685" in card and "lora_alpha: 6" in card and f"trainable_parameters: {count}" in card


def test_the_logits_before_and_after_merging_are_the_same():
    teacher = tiny_teacher("m2m_100")
    plan = build_plan(teacher, StudentShape())
    linear = [name for c in plan.classes if c.weight_class.role == "linear" for name in c.student_names]
    model = add_lora(teacher, linear, {"r": 4, "init_lora_weights": False}).eval()
    batch = random_batch(teacher)
    before = logits(model, batch)
    student = merge_adapters(model, in_place=True)
    assert student is teacher  # nothing is copied
    assert (logits(student, batch) - before).abs().max() < 1e-5


def test_the_optimizer_of_adapters_is_small_beside_that_of_all_weights(base, tmp_path):
    watch = Watch()
    config = replace(CONFIG, generator_args=FAST | {"max_steps": 0})
    student = load(base, config=config).distill(PAIRS, output_dir=tmp_path / "run", callbacks=[watch])
    full = {name: p for name, p in student.named_parameters() if "embed_positions" not in name}
    assert watch.states["finetune"] == 2 * sum(p.numel() for p in full.values())
    lora = 2 * sum(sum(p.shape) for name, p in full.items() if p.dim() == 2 and "layers" in name)  # r = 1; see above
    assert lora < watch.states["finetune"] / 5


def test_the_numbers_in_the_documentation():
    shape = {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 3}  # the rest is the default of M2M100
    with torch.device("meta"):
        student = M2M100ForConditionalGeneration(M2M100Config(vocab_size=256206, **shape))
    parameters = dict(student.named_parameters())
    linear = [name for name, p in parameters.items() if p.dim() == 2 and "layers" in name]
    full = sum(p.numel() for p in parameters.values())
    lora = add_lora(student, linear, {"r": 16}).get_nb_trainable_parameters()[0]
    text = (Path(__file__).parents[1] / "docs" / "peft.md").read_text(encoding="utf-8")
    assert f"has {full:,} weights" in text and f"are {lora:,} numbers" in text
    gradients_and_moments = [3 * 4 * count / 2**30 for count in (full, lora)]
    assert f"take {gradients_and_moments[0]:.2f} GiB" in text.replace("\n  ", " ")
    assert f"and {gradients_and_moments[1]:.2f} GiB" in text and f"({4 * full / 2**30:.2f} GiB)" in text


def test_adapters_learn_with_all_that_phase_2_has(base, tmp_path):
    """Activation checkpointing, a live teacher, generation while training."""
    args = {"max_steps": 30, "logging_steps": 1, "activation_checkpointing": True}
    evaluation = {"eval_strategy": "steps", "eval_steps": 20, "predict_with_generate": True}
    config = replace(
        CONFIG,
        generator_args=FAST | {"max_steps": 0},
        finetune_args=FAST | args | evaluation,
        finetune_objectives={"cross_entropy": 1.0, "kl": 0.1},
        finetune_lora={"r": 4, "lora_alpha": 8},
    )
    distiller, seen = load(base, config=config), []
    distiller.distill(PAIRS, PAIRS, output_dir=tmp_path / "run", compute_metrics=lambda p: seen.append(p) or {"n": 1})
    log = distiller.history["finetune"]
    losses = [entry["cross_entropy"] for entry in log if "cross_entropy" in entry]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])  # dropout makes single ones uneven
    assert any("kl" in entry for entry in log) and any("eval_loss" in entry for entry in log)
    assert seen[0].predictions.shape[0] == 5


def test_an_interrupted_phase_2_with_adapters_ends_the_same(base, tmp_path, monkeypatch):
    saving = FAST | {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    config = replace(CONFIG, finetune_args=saving, finetune_lora={"r": 2, "lora_dropout": 0.2})
    whole = load(base, config=config).distill(PAIRS, output_dir=tmp_path / "whole")
    real = module.WeightDistillTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.args.output_dir.endswith("finetune") and self.state.global_step == stop:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    for stop in (1, 3):  # before and after the first checkpoint
        run = tmp_path / f"cut-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(module.WeightDistillTrainer, "training_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load(base, config=config).distill(PAIRS, output_dir=run)
        torch.rand(7)  # what was drawn in between must not matter
        resumed = load(base, config=config).distill(PAIRS, output_dir=run, resume_from_checkpoint=True)
        assert all(torch.equal(t, tensors_of(resumed)[n]) for n, t in tensors_of(whole).items())
    checkpoint = tmp_path / "cut-3/finetune/checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists() and not (checkpoint / "model.safetensors").exists()
    stated = json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert stated == str(tmp_path / "cut-3/generated_student")  # and not the teacher, whose shapes are others
    assert load(checkpoint).teacher.config.decoder_layers == 1


@pytest.mark.parametrize("drawn", ["pissa", "olora"])
def test_adapters_may_be_drawn_from_the_weights(base, tmp_path, drawn):
    config = replace(CONFIG, finetune_lora={"r": 2, "init_lora_weights": drawn})
    distiller = load(base, config=config)
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    assert distiller.history["finetune"][-1]["step"] == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"finetune_lora": {"rank": 2}}, "finetune_lora: unknown 'rank'; known: .*lora_alpha"),
        ({"finetune_lora": {"r": 0}}, "finetune_lora={'r': 0}: .*positive"),
        ({"finetune_lora": {"r": "two"}}, "finetune_lora={'r': 'two'}"),
        ({"finetune_lora": {"r": 2, "target_modules": ["query"]}}, "Target modules .*query.* not found"),
        ({"finetune_lora": {"r": 2, "target_modules": ["shared"]}}, "weights are tied to other modules"),
        ({"finetune_lora": {"r": 2, "modules_to_save": ["lm_head"]}}, "trained lm_head.weight apart"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(base, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(base, config=replace(CONFIG, **options)).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- command line and documentation ----------------------------------------------------------------------------------


def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(part) for part in argv])
    return code, out.getvalue(), err.getvalue()


def test_the_command_line_plans_with_an_adapter(base, adapter):
    code, out, err = call("plan", adapter, "--decoder_layers", "1")
    assert code == 0, err
    assert out == call("plan", base, "--decoder_layers", "1")[1]


@pytest.mark.filterwarnings("ignore")
def test_the_documentation_runs(base, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(8, 2, 2))
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "adapter").symlink_to(adapter)
    text = (Path(__file__).parents[1] / "docs" / "peft.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    fast = "max_steps=2 use_cpu=true disable_tqdm=true save_strategy=no"
    for command in commands[1:]:  # the first one installs peft
        assert "max_steps=" in command
        program, *argv = shlex.split(re.sub(r"max_steps=\d+", fast, command).replace("\\\n", " "))
        code, _, err = call(*argv)
        assert program == "hf-weight-distill" and code == 0, err[-2000:]
    real = module.phase_arguments
    shrunk = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True}

    def arguments(values, *more, **reads):
        return real(values | shrunk, *more, **reads)

    monkeypatch.setattr(module, "phase_arguments", arguments)
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S)), {})
    assert load_file(tmp_path / "student" / "model.safetensors")
