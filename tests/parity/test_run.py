"""`python -m tests.parity` reports every file, and a number that does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatbridge.models.encoders.eva_vit import EvaViT
from tests.parity import run
from tests.parity.__main__ import main
from tests.parity.golden import Check, golden_of, read_golden
from tests.parity.learning_rates import lr_schedule
from tests.parity.run import Outcome, known_name, run_folder, run_one
from tests.parity.tolerance import Tolerance
from tests.parity.whole_model import model_settings


def test_the_words_of_other_sidecars() -> None:
    """Fails when an absolute tolerance is not read, applied to the wrong outputs, or passes what it forbids."""
    said = {"recommended": "atol 1e-4, rtol 1e-4 for logits and losses; atol 2e-5 for encoder outputs", "measured": "x"}
    outputs = {"out.a": torch.ones(2), "out.b": torch.ones(2)}
    check = Check(golden_of({"tolerance": said}, outputs))
    check.close("a", torch.ones(2) + 1.9e-4)
    assert not check.problems
    check.close("b", torch.ones(2) + 3e-5, features=True)
    check.close("a", torch.ones(2) + 2.1e-4)
    assert len(check.problems) == 2
    two = {"exact copy": "max abs <= 1e-4", "clean one": "mean abs <= 3e-3 per clip; on the files max abs <= 2e-2"}
    assert (Tolerance.of({"tolerance": two}).most, Tolerance.of({"tolerance": two}).mean) == (2e-2, 3e-3)
    assert Tolerance.of({"tolerance": "bitwise in fp16"}).half == 0.0
    mean = Check(golden_of({"tolerance": "<= 2e-2 max abs; mean abs <= 1e-3"}, outputs))
    mean.close("a", torch.tensor([1.0, 1.01]))
    assert "on average" in mean.problems[0]


def copied(reference: Path, folder: Path, stem: str, **about: Any) -> Path:
    """A golden in a folder of our own, with changes to its sidecar."""
    sidecar = json.loads((reference / "golden" / f"{stem}.json").read_text())
    (folder / f"{stem}.json").write_text(json.dumps({**sidecar, **about}))
    tensors = reference / "golden" / f"{stem}.safetensors"
    if tensors.exists():
        save_file(load_file(tensors), folder / f"{stem}.safetensors")
    return folder / f"{stem}.json"


@pytest.mark.parametrize(("part", "output"), [("eva_vit", "block1"), ("qformer", "hidden2"), ("ln_vision", "y_half")])
def test_one_wrong_output_is_found(reference: Path, tmp_path: Path, part: str, output: str) -> None:
    """Fails when an output may be off by more than its tolerance, or is not compared at all."""
    sidecar = copied(reference, tmp_path, f"chatbridge_{part}")
    tensors = load_file(sidecar.with_suffix(".safetensors"))
    tensors[f"out.{output}"].view(-1)[3] += 0.05
    save_file(tensors, sidecar.with_suffix(".safetensors"))
    line = run_one(sidecar)
    assert line["ok"] is False and line["problems"][0].startswith(f"{output}: ")
    assert line["max_abs"] == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (("strings", 0, "conversation"), "###Human: Given"),
        (("stage2_batches", 1, "labels", 0, -1), 7),
        (("stage1_batches", 0, "ids", 0, 1), 7),
        (("pre_caption", 0, "out"), "barks"),
        (("split", 1, "groups", 2), [6]),
    ],
)
def test_one_wrong_value_of_multis_is_found(reference: Path, tmp_path: Path, at: tuple[Any, ...], wrong: Any) -> None:
    """Fails when a part of the MULTIS sidecar is not compared."""
    facts = json.loads((reference / "golden" / "multis_chatbridge.json").read_text())
    node = facts
    for key in at[:-1]:
        node = node[key]
    assert node[at[-1]] != wrong
    node[at[-1]] = wrong
    sidecar = tmp_path / "multis_chatbridge.json"
    sidecar.write_text(json.dumps(facts))
    assert run_one(sidecar)["ok"] is False


def test_an_unknown_output_is_a_failure(reference: Path, tmp_path: Path) -> None:
    """Fails when an output that the case does not compare passes silently."""
    sidecar = copied(reference, tmp_path, "chatbridge_ln_vision")
    tensors = load_file(sidecar.with_suffix(".safetensors"))
    save_file({**tensors, "out.other": torch.ones(2)}, sidecar.with_suffix(".safetensors"))
    assert run_one(sidecar)["problems"] == ["not compared: other"]


def test_the_sidecar_says_how_close(reference: Path, tmp_path: Path) -> None:
    """Fails when the sidecar's tolerance is not the one that is applied."""
    said = "per output tensor: max|got - want| <= 1e-9 * output_rms; float16 outputs 3e-1 * rms"
    line = run_one(copied(reference, tmp_path, "chatbridge_eva_vit", suggested_tolerance=said))
    assert line["ok"] is False and "allowed 1e-09" in line["problems"][0]
    assert Tolerance.of({"suggested_tolerance": said}) == Tolerance(1e-9, 0.3, 1e-3)
    assert Tolerance.of({}) == Tolerance()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_fails_in_plain_json(reference: Path, tmp_path: Path, value: float) -> None:
    """Fails when an output that is no number holds, shows as a difference of 0, or makes the line no JSON."""
    sidecar = copied(reference, tmp_path, "chatbridge_ln_vision")
    tensors = load_file(sidecar.with_suffix(".safetensors"))
    tensors["out.y"][0, 0, 0] = value
    save_file(tensors, sidecar.with_suffix(".safetensors"))
    line = run_one(sidecar)
    assert not line["ok"] and line["max_abs"] is None and line["max_rel"] is None
    json.dumps(line, allow_nan=False)


@pytest.mark.parametrize("about", [{"tolerance": 1e-9}, {"suggested_tolerance": "1e-9"}, {"tolerance": {"atol": 1e-9}}])
def test_a_tolerance_in_other_words_is_not_passed_over(reference: Path, tmp_path: Path, about: dict[str, Any]) -> None:
    """Fails when a tolerance that is no sentence gives way to ours: a number holds for all, the rest is an error."""
    sidecar = copied(reference, tmp_path, "chatbridge_ln_vision")
    told = {key: value for key, value in json.loads(sidecar.read_text()).items() if key != "suggested_tolerance"}
    tensors = load_file(sidecar.with_suffix(".safetensors"))
    save_file({**tensors, "out.y": tensors["out.y"] + 1e-6}, sidecar.with_suffix(".safetensors"))
    sidecar.write_text(json.dumps({**told, **about}))
    line = run_one(sidecar)
    assert not line["ok"] and ("1e-09" in line["problems"][0] or "atol" in line["problems"][0])


def test_numbers_that_are_none_do_not_pass() -> None:
    """Fails when a NaN counts as close, or integers may be off a little."""
    check = Check(golden_of({}, {"out.a": torch.ones(2), "out.b": torch.tensor([10_000_000, 2])}))
    check.close("a", torch.tensor([1.0, float("nan")]))
    check.close("b", torch.tensor([10_000_001, 2]))
    assert len(check.problems) == 2


def eva_case(folder: Path, stem: str, width: int, depth: int, case: str = "eva_vit") -> None:
    """A case of our own making, in the released names, of other sizes than the goldens."""
    torch.manual_seed(1)
    encoder = EvaViT(
        EvaViT.Config(width=width, depth=depth, heads=2, mlp_ratio=2.0, image_size=8, patch_size=2, norm=False)
    )
    image = torch.randn(3, 3, 8, 8)
    weights = {f"w.{key.removeprefix('vit.')}": value for key, value in encoder.state_dict().items()}
    with torch.no_grad():
        outputs = {"out.tokens": encoder.eval()(image, "image").x}
    save_file({"in.image": image, **weights, **outputs}, folder / f"{stem}.safetensors")
    config = {"embed_dim": width, "depth": depth, "num_heads": 2, "mlp_ratio": 2.0, "img_size": 8, "patch_size": 2}
    (folder / f"{stem}.json").write_text(json.dumps({"case": case, "config": config}))


def test_other_sizes_and_names(tmp_path: Path) -> None:
    """Fails when sizes, depths or the number of samples of the goldens are written into a case, or its file's name."""
    eva_case(tmp_path, "chatbridge_eva_vit_deep", width=12, depth=5)
    eva_case(tmp_path, "held_out_7", width=8, depth=1)
    eva_case(tmp_path, "chatbridge_mine", width=8, depth=2, case="eva_vit_posinterp_sideways")
    lines = list(run_folder(tmp_path, Outcome()))
    assert [line["ok"] for line in lines] == [True] * 3


def test_file_names_around_a_case(tmp_path: Path) -> None:
    """Fails when a sidecar without a `case` is skipped because its name contains more than the case."""
    assert known_name("", "set_b.chatbridge_lr_schedule") == "chatbridge_lr_schedule"
    assert known_name("", "B-minigpt4_stage2-7") == "minigpt4_stage2"
    assert known_name("", "chatbridge_eva_vit_posinterp-up.B") == "chatbridge_eva_vit_posinterp"
    assert known_name("", "my_chatbridge_eva_vitality") is None
    (tmp_path / "x_chatbridge_lr_schedule.json").write_text('{"cases": []}')
    assert run_one(tmp_path / "x_chatbridge_lr_schedule.json")["ok"] is False


@pytest.mark.parametrize(("eps", "ok"), [(1e-5, True), (1e-6, True), (None, False)])
def test_another_eps_in_the_sidecar(tmp_path: Path, eps: float | None, ok: bool) -> None:
    """Fails when a sidecar's eps is ignored, or excuses a norm of ours that is wrong by itself."""
    x, weight, bias = torch.randn(2, 5, 6) * 0.003, torch.randn(6), torch.randn(6)
    y = torch.nn.functional.layer_norm(x, (6,), weight, bias, eps or 1e-6)
    save_file({"in.x": x, "w.weight": weight, "w.bias": bias, "out.y": y}, tmp_path / "one.safetensors")
    config = {"dim": 6} if eps is None else {"dim": 6, "eps": eps}
    (tmp_path / "one.json").write_text(json.dumps({"case": "ln_vision", "config": config}))
    assert run_one(tmp_path / "one.json")["ok"] is ok


def test_a_whole_model_of_other_sizes(reference: Path) -> None:
    """Fails when audio_trans is left out where the widths are equal, or clips must be whole patches."""
    golden = read_golden(reference / "golden" / "chatbridge_tiny.json")
    golden.inputs["audio"] = torch.zeros(1, 2, 41, 128)
    settings = model_settings(golden, temporal=True)
    assert settings["bridges"]["perceiver"]["adapters"] == ["sound"]
    assert settings["encoders"]["audio"]["target_frames"] == 32


def test_schedules_that_leave_things_out() -> None:
    """Fails when what a sidecar does not say about a schedule is not what the reference's classes take."""
    short = {"max_epoch": 2, "min_lr": 0.0, "init_lr": 1.0}
    cosine = {"params": {**short, "iters_per_epoch": 2, "warmup_start_lr": -1}, "points": [[0, 0, 1.0], [1, 0, 0.5]]}
    step = {"params": short, "points": [[0, 0, 1.0], [1, 3, 1.0]]}
    names = ("linear_warmup_cosine_lr", "linear_warmup_step_lr")
    cases = [{"scheduler": name, **case} for name, case in zip(names, (cosine, step), strict=True)]
    check = Check(golden_of({"cases": cases}, {}))
    lr_schedule(check)
    assert check.num_compared == 4 and not check.problems


def test_a_folder_speaks_of_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a file is passed over, or the exit code hides one that is incomplete, unknown or broken."""
    monkeypatch.setattr(run, "LATER", ("planned_",))
    eva_case(tmp_path, "chatbridge_eva_vit", width=8, depth=1)
    (tmp_path / "planned_model.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    assert main([str(tmp_path)]) == 0
    (tmp_path / "chatbridge_beats.json").write_text('{"case": "beats"}')
    (tmp_path / "chatbridge_eva_vot.json").write_text('{"case": "eva_vot"}')
    (tmp_path / "imagebind_new.json").write_text('{"case": "imagebind_new"}')
    (tmp_path / "chatbind_new.json").write_text("{}")
    (tmp_path / "chatbridge_qformer.json").write_text("{")
    save_file({"a": torch.ones(1)}, tmp_path / "alone.safetensors")
    (tmp_path / "chatbridge_ln_vision.json").write_text('{"case": "ln_vision", "config": {"dim": 4}}')
    (tmp_path / "chatbridge_ln_vision.safetensors").write_bytes(b"\0\0\0")
    capsys.readouterr()
    assert main([str(tmp_path)]) == 1
    lines = {
        line["file"] if "file" in line else line["case"]: line
        for line in map(json.loads, capsys.readouterr().out.splitlines())
    }
    said = {name: line.get("skipped") or "; ".join(line.get("problems", [])) for name, line in lines.items()}
    assert said.pop("chatbridge_eva_vit") == ""
    expected = {
        "alone": "alone.safetensors has no alone.json",
        "chatbridge_beats": "chatbridge_beats.safetensors is missing",
        "chatbind_new": "unknown case 'chatbind_new'",
        "chatbridge_eva_vot": "nearest known one is chatbridge_eva_vit",
        "chatbridge_ln_vision": "cannot be read as safetensors",
        "chatbridge_qformer": "cannot be read as JSON",
        "planned_model": "not known yet",
        "imagebind_new": "unknown case 'imagebind_new'",
        "notes": "without a case name",
    }
    assert said.keys() == expected.keys()
    assert all(words in said[name] for name, words in expected.items()), said


def test_an_empty_folder_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when a folder without a known case counts as parity."""
    assert main([str(tmp_path)]) == 1
    assert "no known case" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such folder"):
        main([str(tmp_path / "none")])
