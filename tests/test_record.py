"""What a run writes down: stages that add up, histories that survive, coefficients of the generator."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import tiny_teacher
from training import arguments, random_features
from transformers import TrainerCallback

from hf_weight_distill import RECIPES, StudentShape, WeightDistillConfig, WeightDistiller
from hf_weight_distill.cli.values import load_yaml
from hf_weight_distill.files import write_whole, write_whole_folder
from hf_weight_distill.record import RunRecord, read_json, read_settings, settings_text, write_json, write_settings

SHAPE = StudentShape(encoder_layers=2, decoder_layers=1, d_model=8, ffn_dim=12, attention_heads=2)
GENERATOR = WeightDistillConfig(source="generator")


def record_of(folder):
    return json.loads((folder / "record.json").read_text())


def test_a_stage_inside_another_counts_apart(tmp_path, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock)  # a loaded machine stretches real seconds
    record = RunRecord(tmp_path)
    with record.stage("outer"):
        clock += 5.0
        with record.stage("inner"):
            clock += 10.0
        clock += 1.0
    seconds = {stage["stage"]: stage["seconds"] for stage in record_of(tmp_path)["stages"]}
    assert seconds == {"inner": 10.0, "outer": 6.0} and list(seconds) == ["inner", "outer"]


def test_an_interrupted_stage_is_noted_and_a_later_start_adds_to_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunRecord(tmp_path).stage("data"):
        raise KeyboardInterrupt
    again = RunRecord(tmp_path)
    with again.stage("data"):
        pass
    assert [stage["finished"] for stage in record_of(tmp_path)["stages"]] == [False, True]


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    for record in (RunRecord(tmp_path / "run"), RunRecord(tmp_path, writes=False), RunRecord(None)):
        record.write(a=1)
        assert record.facts == {"a": 1}
    assert list(tmp_path.iterdir()) == []


def _full_disk(file):
    file.write(b"{")
    raise OSError("no space left")


def test_a_folder_that_is_there_is_filled_and_not_replaced(tmp_path, monkeypatch):
    """A mount point, a link and the working directory cannot be."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder, there in ((tmp_path / "link", "disk"), (Path("."), "here"), (tmp_path / "a" / "new", "a/new")):
        write_whole_folder(folder, lambda draft: (draft / "model").write_text("x"))
        assert [path.name for path in (tmp_path / there).iterdir()] == ["model"]
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "disk" / "model").unlink()
    with pytest.raises(OSError, match="no space left"):
        write_whole_folder(tmp_path / "link", lambda draft: _full_disk((draft / "model").open("wb")))
    assert not list((tmp_path / "disk").iterdir()), "no draft stays either"
    real, moves = Path.replace, []

    def full(self, target):
        moves.append(target)
        if len(moves) == 2:
            raise OSError("no space left")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole_folder(tmp_path / "link", lambda draft: [(draft / name).write_text("x") for name in "abc"])
    assert not list((tmp_path / "disk").iterdir()), "nor half of it"


def test_json_is_written_whole_and_read_with_a_remedy(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"ä": [1]})
    assert read_json(tmp_path / "new" / "a.json") == {"ä": [1]} and read_json(tmp_path / "b.json") == {}
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"a": object()})
    assert read_json(tmp_path / "new" / "a.json") == {"ä": [1]}
    with pytest.raises(OSError, match="no space left"):
        write_whole(tmp_path / "new" / "a.json", _full_disk)
    assert read_json(tmp_path / "new" / "a.json") == {"ä": [1]} and len(list((tmp_path / "new").iterdir())) == 1
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ValueError, match=r"c.json cannot be read .*: delete it"):
        RunRecord(tmp_path).facts = read_json(tmp_path / "c.json")


class Stop(TrainerCallback):
    """Interrupts a phase after so many updates, once."""

    def __init__(self, phase, step):
        self.phase, self.step = phase, step

    def on_step_end(self, args, state, control, **kwargs):
        if args.output_dir.endswith(self.phase) and state.global_step == self.step:
            self.step = None
            raise KeyboardInterrupt


def test_a_run_that_was_resumed_has_both_histories_and_all_its_time(tmp_path):
    def run(**options):
        config = replace(RECIPES["default"], pseudo_labels="none")
        distiller = WeightDistiller(tiny_teacher("marian"), student=SHAPE, config=config)
        phases = {
            f"{name}_args": arguments(tmp_path / name, max_steps=4, save_strategy="steps", save_steps=2)
            for name in ("generator", "finetune")
        }
        distiller.distill(random_features(), output_dir=tmp_path / "run", **phases, **options)
        return distiller

    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[Stop("finetune", 3)])
    stopped = record_of(tmp_path / "run")
    assert stopped["finished"] is False and [row["step"] for row in stopped["history"]["finetune"]] == [1, 2]
    assert stopped["stages"][-1] | {"seconds": 0} == {"stage": "finetune", "seconds": 0, "finished": False}
    distiller = run(resume_from_checkpoint=True)
    record = record_of(tmp_path / "run")
    assert record["finished"] is True and record["history"] == distiller.history
    for phase in ("generator", "finetune"):
        assert [row["step"] for row in record["history"][phase] if "loss" in row] == [1, 2, 3, 4]
    assert [stage["stage"] for stage in record["stages"]] == ["data", "start", "generator", "finetune"] + [
        *("data", "finetune")
    ]
    assert record["learned"] == stopped["learned"]


def test_sizes_coefficients_and_the_way_of_projections(tmp_path):
    distiller = WeightDistiller(tiny_teacher("marian"), student=SHAPE, config=GENERATOR)
    start = distiller.calibrate(random_features())
    before = {name: value.clone() for name, value in start.source.state_dict().items()}
    steps = arguments(tmp_path / "generator", max_steps=3), arguments(tmp_path / "finetune", max_steps=0)
    student = distiller.distill(
        random_features(), output_dir=tmp_path / "run", generator_args=steps[0], finetune_args=steps[1]
    )
    record, after = record_of(tmp_path / "run"), distiller.model.source.state_dict()
    assert record["parameters"] == [sum(p.numel() for p in m.parameters()) for m in (distiller.teacher, student)]
    assert record["shape"]["decoder layers"] == [4, 1] and "finetune" not in record["history"]
    learned = record["learned"]
    assert {path.replace(".", "/") for path in learned["mixing"]} == set(distiller.model.source.mix)
    for path, entry in learned["mixing"].items():
        key = "mix." + path.replace(".", "/")
        torch.testing.assert_close(torch.tensor(entry["start"]), before[key], atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(entry["end"]), after[key], atol=1e-4, rtol=0)
    groups = learned["mixing"]["model.encoder.layers.{}.fc1.weight"]["groups"]
    assert groups == [[0, 1], [2, 3]]
    for name, way in learned["moved"].items():
        old, new = before[f"projections.{name}"], after[f"projections.{name}"]
        assert way == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5) and way > 0


def test_groups_of_unequal_length_are_written_without_filling(tmp_path):
    shape = StudentShape(decoder_groups=((0, 1, 2), (3,)))
    distiller = WeightDistiller(tiny_teacher("marian"), student=shape, config=GENERATOR)
    steps = arguments(tmp_path / "generator", max_steps=1), arguments(tmp_path / "finetune", max_steps=0)
    distiller.distill(random_features(), output_dir=tmp_path / "run", generator_args=steps[0], finetune_args=steps[1])
    entry = record_of(tmp_path / "run")["learned"]["mixing"]["model.decoder.layers.{}.fc1.weight"]
    assert [len(row) for row in entry["end"]] == [len(group) for group in entry["groups"]] == [3, 1]


def test_settings_read_the_same_by_both_versions_of_yaml(tmp_path):
    settings = {
        "prefix": "1e3",
        "other": ["-2E5", "no", "0o17", "1_000", "on", "null", "~", ".5", "007"],
        "rate": 1e-05,
    }
    write_settings(tmp_path / "run.yaml", settings)
    assert read_settings(tmp_path / "run.yaml") == settings == load_yaml(settings_text(settings), "settings")


def test_a_folder_is_as_private_as_the_users_umask_makes_it(tmp_path):
    before = os.umask(0o077)
    try:
        write_whole_folder(tmp_path / "student", lambda draft: (draft / "a").write_text("x"))
    finally:
        os.umask(before)
    assert (tmp_path / "student").stat().st_mode & 0o777 == 0o700
