"""The search for a shape: sizes against built students, order of the cuts, targets, speed, words and flags."""

import contextlib
import dataclasses
import io
import json
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
from models import BART_LIKE, FAMILIES, T5_LIKE, tiny_teacher
from transformers import MarianConfig, MarianMTModel, T5Config, T5ForConditionalGeneration

from hf_weight_distill import StudentShape, WeightDistiller, build_plan, planner
from hf_weight_distill.cli import main
from hf_weight_distill.cli.plan import bytes_of, count_of
from hf_weight_distill.evaluation import model_size
from hf_weight_distill.plan import stock_student
from hf_weight_distill.planner import Speed, Targets, candidate_shapes, find_shape, measure_speed, shape_flags


@pytest.fixture
def quick(monkeypatch):
    """Short passes where only sizes matter."""
    monkeypatch.setattr(planner, "NEW_TOKENS", 2)
    monkeypatch.setattr(planner, "REPEATS", 1)


def opus(**changes):
    """The layout of the public Marian checkpoints, without weights."""
    config = BART_LIKE | {"vocab_size": 58101, "d_model": 512, "max_position_embeddings": 512, "pad_token_id": 58100}
    config |= {
        f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 6), ("ffn_dim", 2048))
    }
    config |= {"encoder_attention_heads": 8, "decoder_attention_heads": 8, "decoder_start_token_id": 58100}
    with torch.device("meta"):
        return MarianMTModel(MarianConfig(**config | changes))


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_line_falls_and_its_sizes_are_those_of_students_that_were_really_built(family):
    teacher = tiny_teacher(family)
    line = candidate_shapes(teacher)
    own = model_size(teacher)
    assert planner.safetensors_bytes(teacher) == own["bytes_on_disk"]
    parameters = [own["parameters"], *(c.parameters for c in line)]
    disk = [own["bytes_on_disk"], *(c.disk_bytes for c in line)]
    assert parameters == sorted(set(parameters), reverse=True) and disk == sorted(set(disk), reverse=True)
    for candidate in (line[1], line[8], line[-1]):
        plan = build_plan(teacher, candidate.shape)
        for c in plan.classes:
            assert all(new <= old for old, new in zip(c.teacher_shape, c.student_shape, strict=True))
        student = stock_student(teacher, plan.student_config, device="cpu")
        assert model_size(student) == {"parameters": candidate.parameters, "bytes_on_disk": candidate.disk_bytes}
    student = WeightDistiller(teacher, student=line[-1].shape).student  # made from the teacher's weights
    assert sum(p.numel() for p in student.parameters()) == line[-1].parameters


def test_sizes_are_the_closed_form_of_a_public_checkpoint():
    def expected(shape):
        given = shape.to_dict()
        d, f = given.get("d_model", 512), given.get("ffn_dim", 2048)
        attention, ffn, norm = 4 * (d * d + d), 2 * d * f + f + d, 2 * d
        encoder = given.get("encoder_layers", 6) * (attention + ffn + 2 * norm)
        decoder = given.get("decoder_layers", 6) * (2 * attention + ffn + 3 * norm)
        return 58101 * d + 2 * 512 * d + encoder + decoder

    teacher = opus()
    assert sum(p.numel() for p in teacher.parameters()) == expected(StudentShape())
    for candidate in candidate_shapes(teacher):
        assert candidate.parameters == expected(candidate.shape)
        # all but two tables of positions is saved, and the bias of the logits
        width = candidate.config.d_model
        header = candidate.disk_bytes - 4 * (candidate.parameters - 2 * 512 * width + 58101)
        assert 0 < header < 60_000 and header % 8 == 0


# --- the line --------------------------------------------------------------------------------------------------------


def test_the_decoder_goes_first_and_nothing_falls_below_half_before_the_rest_is_halved():
    shapes = [c.shape.to_dict() for c in candidate_shapes(opus())]
    assert [shape["decoder_layers"] for shape in shapes] == [3, 2] + [1] * (len(shapes) - 2)
    first = {"encoder_layers": 3, "ffn_dim": 1024, "d_model": 256, "attention_heads": 4, "decoder_layers": 1}
    end = shapes.index(first)
    assert [list(shape) for shape in shapes[:3]] == [["decoder_layers"]] * 3
    assert [shape.get("encoder_layers") for shape in shapes[: end + 1]] == [None] * 3 + [3] * (end - 2)
    assert [shape.get("ffn_dim") for shape in shapes[3:9]] == [None, 1792, 1536, 1280, 1024, 1024]
    assert [shape.get("d_model") for shape in shapes[7 : end + 1]] == [None, 448, 384, 320, 256]
    second = {"encoder_layers": 2, "ffn_dim": 512, "d_model": 128, "attention_heads": 2, "decoder_layers": 1}
    assert second in shapes[end:]
    assert shapes[-1] == {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "d_model": 64,
        "ffn_dim": 256,
        "attention_heads": 1,
    }


@pytest.mark.parametrize("heads", [(8, 8), (8, 16), (16, 8)])
def test_heads_are_kept_whole(heads):
    teacher = opus(encoder_attention_heads=heads[0], decoder_attention_heads=heads[1])
    for candidate in candidate_shapes(teacher):
        config = candidate.config
        assert config.d_model / config.encoder_attention_heads == 512 / heads[0]
        assert config.d_model / config.decoder_attention_heads == 512 / heads[1]


def test_t5_keeps_the_size_of_a_head_and_a_round_width():
    sizes = {"d_model": 512, "d_kv": 64, "num_heads": 6, "d_ff": 1024}  # flan-t5-small: 6 x 64 is not 512
    with torch.device("meta"):
        teacher = T5ForConditionalGeneration(T5Config(**T5_LIKE | sizes))
    line = candidate_shapes(teacher)
    found = [(c.config.num_heads, c.config.d_model) for c in line]
    assert sorted(set(found), reverse=True) == [(6, 512), (5, 384), (4, 320), (3, 256), (2, 128), (1, 64)]
    assert {c.config.d_kv for c in line} == {64}
    assert {c.config.d_ff for c in line if c.config.num_heads == 1} == {128}  # a sixth waits for the last round


def test_different_stacks_shrink_alike():
    found = {c.shape.ffn_dim for c in candidate_shapes(opus(decoder_ffn_dim=1024))}
    assert {(1024, 512), (512, 256), (256, 128)} <= found


@pytest.mark.parametrize(
    "base, decoder_layers",
    [({"decoder_layers": 2}, {2}), ({"decoder_layers": 4}, {4}), ({"encoder_layers": 2}, {2, 1})],
)
def test_a_t5_keeps_as_many_encoder_layers_as_decoder_layers(base, decoder_layers, quick):
    teacher = tiny_teacher("t5")
    line = candidate_shapes(teacher, StudentShape(**base))
    assert all(c.config.num_layers >= c.config.num_decoder_layers for c in line)
    assert {c.config.num_decoder_layers for c in line} == decoder_layers and len(line) > 5
    assert all(a.parameters > b.parameters for a, b in zip(line, line[1:], strict=False))
    target = Targets(parameters=line[-1].parameters)
    assert find_shape(teacher, target, StudentShape(**base)).picked.shape == line[-1].shape


def test_what_is_given_stays():
    base = StudentShape(encoder_layers=2, ffn_dim=512)
    line = candidate_shapes(opus(), base)
    assert line[0].shape == base
    assert {(c.shape.encoder_layers, c.shape.ffn_dim) for c in line} == {(2, 512)}
    groups = StudentShape(decoder_groups=((0, 1, 2), (3, 4, 5)), attention_heads=8)
    line = candidate_shapes(opus(), groups)
    assert {(c.config.decoder_layers, c.config.d_model, c.shape.decoder_layers) for c in line} == {(2, 512, None)}


def test_a_smaller_vocabulary_is_counted_and_timed(quick):
    teacher = tiny_teacher("marian")  # starts decoding with its last token, which a student of 30 tokens has not
    base = StudentShape(vocab=30)
    full, line = (candidate_shapes(teacher, StudentShape(decoder_layers=1, vocab=vocab)) for vocab in (None, 30))
    assert full[0].parameters - line[0].parameters == 10 * 16
    search = find_shape(teacher, Targets(parameters=12_500), base, batch_sizes=(1,))
    assert search.picked.shape == StudentShape(decoder_layers=1, vocab=30)
    assert "--decoder_layers 1 --vocab 30" in str(search) and str(search).splitlines()[1].split()[4] == "vocab"


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "index", "targets"),
    [
        ("t5", 9, lambda line: {"parameters": line[8].parameters - 1}),
        ("m2m_100", 2, lambda line: {"disk_bytes": line[2].disk_bytes}),
        ("marian", 4, lambda line: {"parameters": line[4].parameters, "disk_bytes": line[0].disk_bytes}),
    ],
)
def test_the_largest_shape_within_a_size_is_picked(family, index, targets, quick):
    teacher = tiny_teacher(family)
    line = candidate_shapes(teacher)
    search = find_shape(teacher, Targets(**targets(line)), batch_sizes=(1,))
    assert search.picked.shape == line[index].shape
    assert search.picked in search.rows and search.closest is search.picked
    assert len(search.rows) <= math.ceil(math.log2(len(line) + 1))


def test_a_speed_is_reached_at_every_batch_size(monkeypatch):
    monkeypatch.setattr(planner, "NEW_TOKENS", 4)
    search = find_shape(tiny_teacher("marian"), Targets(speedup=1.3), batch_sizes=(1, 2))
    assert search.picked.least_speedup == min(search.picked.speedups.values()) >= 1.3
    assert set(search.picked.speedups) == {1, 2}
    assert search.picked.shape.decoder_layers in (1, 2)
    before = [row for row in search.rows if row.parameters > search.picked.parameters]
    assert all(row.least_speedup < 1.3 for row in before)


def test_all_targets_hold_together(quick):
    teacher = tiny_teacher("marian")
    search = find_shape(teacher, Targets(speedup=1.001, parameters=8000), batch_sizes=(1,))
    assert search.picked.parameters <= 8000 and search.picked.least_speedup >= 1.001


def test_out_of_reach_shows_the_closest(quick):
    teacher = tiny_teacher("marian")
    search = find_shape(teacher, Targets(parameters=100), batch_sizes=(1,))
    assert search.picked is None and search.closest.shape == candidate_shapes(teacher)[-1].shape
    assert "picked: none, no shape tried has at most 100 parameters; the closest: --encoder_layers 1" in str(search)
    assert "--vocab" not in str(search)  # 40 tokens are little of it
    search = find_shape(teacher, Targets(speedup=1000), batch_sizes=(1,))
    assert search.picked is None and search.closest.least_speedup == max(r.least_speedup for r in search.rows)


@pytest.mark.parametrize(
    ("targets", "base", "message"),
    [
        ({}, None, "no target"),
        ({"speedup": 1}, None, "target speedup=1: expected a number above 1"),
        ({"speedup": math.nan}, None, "target speedup=nan"),
        ({"parameters": 0}, None, "target parameters=0: expected a number above 0"),
        ({"parameters": 30_000}, None, "the teacher itself has at most 30,000 parameters: 21,824 parameters, 0.10 MB"),
        ({"disk_bytes": 10**6}, None, "the teacher itself has at most 1.00 MB"),
        ({"parameters": 9}, {"decoder_layers": 3}, "4 teacher layers cannot form 3 equal groups"),
        (
            {"parameters": 9},
            {"vocab": "from-data"},
            "vocab='from-data': how many tokens .* beside a target give a number",
        ),
        (
            {"parameters": 9},
            {"encoder_layers": 4, "decoder_layers": 4, "ffn_dim": 24, "d_model": 16},
            "nothing is left to be made smaller",
        ),
    ],
)
def test_wrong_targets_cost_no_measurement(targets, base, message, monkeypatch):
    monkeypatch.setattr(MarianMTModel, "generate", None)
    with pytest.raises(ValueError, match=message):
        find_shape(tiny_teacher("marian"), Targets(**targets), base and StudentShape(**base))


def test_wrong_batch_sizes_are_refused():
    with pytest.raises(ValueError, match=r"batch_sizes=\(0,\): expected positive numbers"):
        find_shape(tiny_teacher("marian"), Targets(speedup=2), batch_sizes=(0,))


def test_a_teacher_of_half_precision_does_not_race_float32_students(monkeypatch):
    monkeypatch.setattr(MarianMTModel, "generate", None)
    with pytest.raises(ValueError, match="the teacher has torch.bfloat16 weights.*load it with dtype=torch.float32"):
        find_shape(tiny_teacher("marian").bfloat16(), Targets(speedup=2))


# --- speed -----------------------------------------------------------------------------------------------------------


def test_a_speed_is_the_median_pass_and_a_ratio_the_median_turn():
    fast, slow = Speed(10, (1.0, 2.0, 4.0)), Speed(10, (3.0, 4.0, 40.0))
    assert fast.tokens_per_second == 5 and fast.spread == 1.5
    assert fast.times(slow) == 3  # of 3, 2 and 10


@pytest.mark.parametrize("eager", [True, False])
def test_every_model_generates_the_same_number_of_tokens(eager):
    """Whether it wants to stop at once or never, and whatever its checkpoint says about lengths."""
    model = tiny_teacher("marian")
    model.final_logits_bias[0, model.config.eos_token_id] = 1e4 if eager else -1e4
    model.generation_config.update(min_length=5, max_length=7, max_new_tokens=3, num_beams=4, early_stopping=True)
    tokens = {size: speed.tokens for size, speed in measure_speed([model], (1, 3))[0].items()}
    assert tokens == {1: 31, 3: 93}  # of its 32 positions the start takes one


def test_models_take_turns_and_keep_their_mode(monkeypatch):
    models = [tiny_teacher("t5"), tiny_teacher("t5").train()]
    order = []
    monkeypatch.setattr(planner, "_timed_pass", lambda model, size: (1, order.append(models.index(model)) or 0.5))
    assert measure_speed(models, (1,)) == [{1: Speed(1, (0.5,) * planner.REPEATS)}] * 2
    assert order == [0, 1] * (planner.REPEATS + 1)
    monkeypatch.undo()
    monkeypatch.setattr(planner, "REPEATS", 1)
    monkeypatch.setattr(planner, "NEW_TOKENS", 2)
    measure_speed(models, (1,))
    assert [model.training for model in models] == [False, True]


def test_chance_is_left_as_it_was(quick):
    teacher = tiny_teacher("bart")  # the first one of a family draws its weights
    before = torch.random.get_rng_state()
    find_shape(teacher, Targets(parameters=9000), batch_sizes=(1,))
    assert torch.equal(before, torch.random.get_rng_state())


# --- advice ----------------------------------------------------------------------------------------------------------


def said(search):
    return {word for word in ("deep encoder", "fewer layers", "in steps", "data:", "--vocab") if word in str(search)}


def test_advice_is_given_where_it_applies(quick):
    teacher = tiny_teacher("marian")
    search = find_shape(teacher, Targets(parameters=16_000), batch_sizes=(1,))
    assert said(search) == {"deep encoder", "data:"}
    search = find_shape(teacher, Targets(parameters=8400), batch_sizes=(1,))
    assert said(search) == {"deep encoder", "fewer layers", "in steps", "data:"}
    assert "distil in steps, first --decoder_layers 2 (72% of it), then that student" in str(search)


def test_a_first_step_leads_to_the_wanted_student(quick):
    """6 -> 3 -> 2 layers is no way, since three layers form no two equal groups."""
    teacher = MarianMTModel(MarianConfig(**BART_LIKE | {"encoder_layers": 6, "decoder_layers": 2}))
    base = StudentShape(decoder_layers=2)
    second = next(c for c in candidate_shapes(teacher, base) if c.shape.encoder_layers == 2)
    search = find_shape(teacher, Targets(parameters=second.parameters), base, batch_sizes=(1,))
    assert search.picked.shape.encoder_layers == 2 and "distil in steps [" in str(search)
    assert "deep encoder" not in said(search)


def test_a_vocabulary_that_is_most_of_the_model_is_named(quick):
    torch.manual_seed(0)
    teacher = MarianMTModel(MarianConfig(**BART_LIKE | {"vocab_size": 4000, "pad_token_id": 3999}))
    search = find_shape(teacher, Targets(parameters=5000), batch_sizes=(1,))
    share = 4000 * 4 / candidate_shapes(teacher)[-1].parameters
    assert f"{share:.0%} of the smallest shape's parameters are embeddings of 4,000 tokens" in str(search)
    assert "--vocab" not in said(find_shape(teacher, Targets(parameters=50_000), batch_sizes=(1,)))


# --- the command -----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def call(*argv, stdout=io.StringIO):
    out, err = stdout(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(part) for part in argv])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planner") / "teacher"
    tiny_teacher("marian").save_pretrained(folder)
    return folder


def test_the_flags_that_are_printed_make_the_student_that_was_picked(folder, tmp_path, quick):
    file = tmp_path / "new" / "plan.json"
    code, out, err = call("plan", "--teacher", folder, "--target-params", "8.1K", "--batch_sizes", 1, "--json", file)
    assert code == 0, err
    lines = out.splitlines()
    assert "╭" not in out and "\x1b" not in out  # a pipe
    picked = next(line for line in lines if line.startswith("picked  "))
    assert picked.split()[1:6] == ["2+1", "16", "18", "4", "8,070"] and picked.split()[6:8] == ["37%", "0.03"]
    assert lines[1].split()[:9] == "layers d_model ffn_dim attention_heads parameters of teacher disk MB".split()
    assert "timing --encoder_layers 2 --decoder_layers 1" in err and "timing" not in out

    values = json.loads(file.read_text())
    assert values["picked"]["shape"] == {"encoder_layers": 2, "decoder_layers": 1, "ffn_dim": 18}
    assert values["picked"]["parameters"] == 8070 and values["picked"]["disk_bytes"] == 34632
    assert values["picked"]["speeds"]["1"]["tokens"] == 2 and values["picked"] in values["rows"]
    assert values["targets"] == {"speedup": None, "parameters": 8100, "disk_bytes": None}

    command = next(line for line in lines if line.startswith("next: ")).removeprefix("next: ")
    program, name, teacher, *flags = shlex.split(command)
    assert (program, name, teacher) == ("hf-weight-distill", "distill", str(folder))
    assert flags[-4:] == ["--train", "DATA", "--output_dir", "DIR"]
    code, out, err = call("plan", folder, *flags[:-4])
    assert code == 0 and out.startswith("Marian: 21,824 -> 8,070 parameters\n"), err


def test_a_terminal_gets_a_drawn_table(folder, quick, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    _, out, _ = call("plan", folder, "--target_disk", "0.04MB", "--batch_sizes", "1", stdout=Terminal)
    assert "╭" in out and "\x1b" in out and "picked" in out


def test_a_narrow_terminal_cuts_no_numbers(folder, quick, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    wide, (code, out, _) = (
        call("plan", folder, "--target_disk", "0.04MB", "--batch_sizes", "1", stdout=stdout)
        for stdout in (io.StringIO, Terminal)
    )
    assert code == 0 and "╭" not in out and "…" not in out and "8,070" in out
    assert out.splitlines()[1] == wide[1].splitlines()[1]


def test_the_next_step_takes_the_revision_that_was_planned(folder, quick):
    _, out, _ = call("plan", folder, "--revision", "main", "--target_disk", "0.04MB", "--batch_sizes", "1")
    assert f"next: hf-weight-distill distill {folder} --revision main --encoder_layers" in out


def test_out_of_reach_is_exit_code_2_with_the_table(folder, quick):
    code, out, err = call("plan", folder, "--target_speedup", 900, "--target_disk", "1KiB", "--batch_sizes", 1)
    assert code == 2
    assert err.splitlines()[-1] == (
        "hf-weight-distill plan: no shape tried has at least 900x the teacher's speed and at most 0.00 MB"
    )
    assert "closest" in out and "picked: none" in out and "next:" not in out


@pytest.mark.parametrize(
    ("text", "count"), [("30M", 30_000_000), ("1.5b", 1_500_000_000), ("4.1M", 4_100_000), ("8100", 8100), (".5K", 500)]
)
def test_counts(text, count):
    assert count_of(text) == count


@pytest.mark.parametrize(
    ("text", "count"), [("50MB", 50_000_000), ("50MiB", 52_428_800), ("1.5 GB", 1_500_000_000), ("1kib", 1024)]
)
def test_disk(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--target_params", "30X"], "found '30X', expected a number such as 30M, 1.5B or 30000000"),
        (["--target_params", "30MB"], "found '30MB'"),
        (["--target_params", "many"], "found 'many'"),
        (["--target_disk", "50M"], "found '50M', expected a size such as 50MB, 50MiB or 1.5GB"),
        (["--target_disk", "50"], "found '50'"),
        (["--target_speedup", "0.5"], "target speedup=0.5: expected a number above 1"),
        (["--target_params", "9K", "--device", "nowhere"], "--device nowhere: "),
        (["--target_params", "1M"], "the teacher itself has at most 1,000,000 parameters: 21,824 parameters"),
        (["--json", "x.json"], "--json is for a search: give --target_speedup, --target_params or --target_disk"),
        (["--batch_sizes", "1"], "--batch_sizes is for a search"),
        (["--teacher", "another"], "two teachers: "),
    ],
)
def test_wrong_use_is_one_line(folder, argv, message):
    code, out, err = call("plan", folder, *argv)
    assert code == 2 and message in err.splitlines()[-1] and not out


def test_a_busy_machine_is_told():
    row = planner.Row(StudentShape(), {}, 1, 1, {1: Speed(1, (1.0, 1.1, 1.2))}, {1: 2.0})
    search = planner.ShapeSearch(Targets(speedup=2), row, (row,), row, row, (), {})
    assert "busy" not in search.verdict()
    slow = dataclasses.replace(row, speeds={1: Speed(1, (1.0, 1.0, 1.5))})
    assert "speeds spread by up to 50%: the machine is busy" in dataclasses.replace(search, rows=(slow,)).verdict()


def test_the_page_runs(tmp_path, monkeypatch, quick, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 1000, "d_model": 128, "max_position_embeddings": 128, "pad_token_id": 999}
    sizes |= {"encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "decoder_start_token_id": 999}
    MarianMTModel(MarianConfig(**BART_LIKE | sizes)).save_pretrained("demo/teacher")  # as large as the demo's
    page = (Path(__file__).parents[1] / "docs" / "planner.md").read_text(encoding="utf-8")
    commands, code = (re.search(rf"```{name}\n(.*?)```", page, flags=re.S)[1] for name in ("bash", "python"))
    speed, *others = [shlex.split(command)[1:] for command in commands.splitlines()]
    assert main(speed) in (0, 2), "what a speed is depends on the machine"
    assert [main(command) for command in others] == [0, 0]
    assert json.loads(Path("plan.json").read_text())["teacher"]["parameters"] == 1_485_824  # as in the page's table
    capsys.readouterr()
    exec(code, {})
    shape = capsys.readouterr().out.splitlines()[-1]
    assert shape.startswith("StudentShape(encoder_layers=4, decoder_layers=1, d_model=")


def test_shapes_are_flags():
    shape = StudentShape(ffn_dim=(1024, 512), encoder_groups=((0, 1), (2,)), d_model=8)
    assert shape_flags(shape) == "--d_model 8 --ffn_dim 1024 512 --encoder_groups 0,1 2"
    assert shape_flags(StudentShape(vocab="a folder")) == "--vocab 'a folder'"


def test_the_warming_pass_is_not_timed(monkeypatch):
    seconds = iter([9.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(planner, "_timed_pass", lambda model, size: (32, next(seconds)))
    monkeypatch.setattr(planner, "_bare_generation", lambda model: planner.contextlib.nullcontext())
    assert planner.measure_speed([object()], [1])[0][1].seconds == (1.0, 2.0, 3.0)
