"""`chatbridge migrate`: every key of the old file has one row, and the new file is ours, equal to the shipped one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli.migrate.command import main
from chatbridge.cli.migrate.convert import Migrated, migrate
from chatbridge.cli.migrate.families import MODEL_FILES
from chatbridge.cli.migrate.original import read_original
from chatbridge.cli.migrate.rows import STATUSES, UNKNOWN, leaves
from chatbridge.config.merge import load
from tests.cli.migrate.public_files import INSTRUCT_MIX, PRETRAIN_MIX, PUBLIC, data_options, entry, write, write_public

ROOT = Path(__file__).parents[3]
SHIPPED = {
    "minigpt4_stage1": "train_configs/minigpt4_stage1_pretrain.yaml",
    "minigpt4_stage2": "train_configs/minigpt4_stage2_finetune.yaml",
    "chatbridge_pretrain": "train_configs/chatbridge_pretrain.yaml",
    "chatbridge_instruct": "train_configs/chatbridge_instruct.yaml",
    "minigpt4_eval": "eval_configs/minigpt4_eval.yaml",
    "minigpt4_llama2_eval": "eval_configs/minigpt4_llama2_eval.yaml",
    "chatbridge_eval": "eval_configs/chatbridge_eval.yaml",
}
OWN = ("output_dir", "init_from", "trackers")  # of a user, or of the machine
DECIDED = {  # what our shipped files decide where the old ones say nothing, or nothing that is used
    "chatbridge_pretrain": {"run.micro_batch", "data.num_workers", "run.keep"},
    "chatbridge_instruct": {"run.micro_batch", "run.keep"},
}
COMPLETE = {name for name in PUBLIC if not name.startswith(("blip2", "instructblip"))}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_public(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def migrated(files: dict[str, Path]) -> dict[str, Migrated]:
    return {name: migrate(file) for name, file in files.items()}


def test_every_leaf_of_the_old_file_is_in_exactly_one_row(files: dict[str, Path], migrated: dict[str, Migrated]):
    """fails when a key of a public file, of its defaults or of the data options is dropped, or comes up twice"""
    for name, result in migrated.items():
        keys = [key for key, _ in leaves(read_original(files[name]).config)]
        mix = {"chatbridge_pretrain": ("audio%cc16m%webvid2m%laion_v4a2.json", PRETRAIN_MIX),
               "chatbridge_instruct": ("ivaav_inschat.json", INSTRUCT_MIX)}.get(name)  # fmt: skip
        keys += [key for key, _ in leaves(mix[1], mix[0])] if mix else []
        assert sorted(row.key for row in result.rows) == sorted(keys), name
        assert all(row.status in STATUSES and (row.here or row.note) and row.file for row in result.rows), name
        assert not [row for row in result.rows if row.status == UNKNOWN], name
        assert result.is_complete == (name in COMPLETE), (name, result.mistakes)


def test_the_new_files_pass_our_check(migrated: dict[str, Migrated]):
    """fails when the schema rejects a new file for anything but a path to give or a file to bring"""
    for name, result in migrated.items():
        assert not result.mistakes, (name, *map(str, result.mistakes))
        assert any(one.path == "model.language.weights" for one in result.needs), name


@pytest.mark.parametrize("name", SHIPPED)
def test_equal_to_the_shipped_file(name: str, migrated: dict[str, Migrated], tmp_path: Path):
    """fails when the merged new file differs from ours in a setting that the old file decides"""
    new = _settings(_written(tmp_path, migrated[name]))
    ours = _settings(ROOT / SHIPPED[name])
    if name.endswith("eval"):  # the demo; our files also have tasks
        ours = {key: value for key, value in ours.items() if not key.startswith("evaluation.tasks")}
    different = {key for key in {*new, *ours} if new.get(key, "absent") != ours.get(key, "absent")}
    assert different <= DECIDED.get(name, set()), {key: (new.get(key), ours.get(key)) for key in different}


def _written(folder: Path, result: Migrated) -> Path:
    path = folder / "new.yaml"
    path.write_text(result.text, encoding="utf-8")
    return path


def _settings(path: Path) -> dict[str, Any]:
    """Every setting of a merged file but those of a user."""
    config = load(path)[0]
    for key in OWN:
        config["run"].pop(key, None)
    return {key: value for key, value in leaves(config) if not hasattr(value, "message")}


def test_unknown_keys_are_reported_with_the_nearest(tmp_path: Path):
    """fails when a misspelled or invented key of any section vanishes without a row"""
    old = json.loads(json.dumps(PUBLIC["minigpt4_stage1"]))
    old["run"]["warmup_step"] = 3
    old["model"]["frobnicate"] = {"deep": {"er": [1, 2]}}
    old["datasets"]["laion"]["vis_procesor"] = {"train": {"name": "x"}}
    old["surprise"] = {"a": None}
    result = migrate(write(tmp_path / "old.yaml", old))
    unknown = {row.key: row.note for row in result.rows if row.status == UNKNOWN}
    inner = "datasets.laion.vis_procesor.train.name"
    assert set(unknown) == {"run.warmup_step", "model.frobnicate.deep.er", inner, "surprise.a"}
    assert "did you mean run.warmup_steps?" in unknown["run.warmup_step"]
    assert not result.is_complete and "run.warmup_step = 3" in result.text


def test_paths_options_and_interpolation(tmp_path: Path):
    """fails when an existing path is not taken, an option does not win, or a reference is not followed"""
    old = json.loads(json.dumps(PUBLIC["minigpt4_stage2"]))
    folder = tmp_path / "cc_sbu_align"
    (folder / "image").mkdir(parents=True)
    (folder / "filter_cap.json").write_text("{}")
    (tmp_path / "vicuna-x").mkdir()
    (tmp_path / "vicuna-x/config.json").write_text('{"hidden_size": 4096}')
    (tmp_path / "stage1.pth").write_bytes(b"x")
    (tmp_path / "prompts.txt").write_text("<Img><ImageHere></Img> What is it?\n")
    old["model"] |= {"llama_model": "${env.models}/vicuna-x", "ckpt": "stage1.pth", "prompt_path": "prompts.txt"}
    old["model"] |= {"end_sym": "##", "max_txt_len": 80}
    old["env"] = {"models": str(tmp_path), "other": "${env.nothing}"}
    old["datasets"]["cc_sbu_align"]["build_info"] = {"storage": str(folder)}
    result = migrate(write(tmp_path / "old.yaml", old), ["run.init_lr=1e-3", "run.max_epoch=2"])
    config = load(_written(tmp_path, result))[0]
    assert config["model"]["language"]["weights"] == str(tmp_path / "vicuna-x")
    assert config["model"]["language"]["architecture"]["hidden_size"] == 4096  # the folder's size chooses the base
    assert config["model"]["language"]["template_settings"] == {"end_sym": "##", "max_tokens": 80}
    assert config["run"]["init_from"] == str(tmp_path / "stage1.pth")
    source = config["data"]["sources"]["minigpt4_cc_sbu_align"]
    assert source["annotations"] == f"{folder}/filter_cap.json" and source["image_folder"] == f"{folder}/image"
    assert source["prompts"] == str(tmp_path / "prompts.txt")
    assert config["run"]["optimizer"]["lr"] == 1e-3 and config["run"]["max_steps"] == 400
    rows = {row.key: row for row in result.rows}
    assert rows["run.init_lr"].file == "--options" and rows["run.seed"].line is not None
    assert rows["env.other"].status == "no equal" and "env.nothing" in rows["env.other"].note


def test_a_mix_of_your_own(tmp_path: Path):
    """fails when entries that no shipped file describes lose their paths, shares or batches, or odd ones are dropped"""
    (tmp_path / "mine.json").write_text("[]")
    (tmp_path / "pictures").mkdir()
    files = {"txt": str(tmp_path / "mine.json"), "video": str(tmp_path / "pictures")}
    own = entry("my set", "ti-shortqa", 5, 8) | {"datasets": [{"name": "my set", **files, "datatype": "image"}]}
    odd = [entry("odd", "ti%ta", 1, 4), entry("odd2", "tv-station", 1, 4)]
    mix = data_options([own, entry("cococap", "ti-cap", 7, 16), *odd])
    (tmp_path / "mix.json").write_text(json.dumps(mix))
    old = json.loads(json.dumps(PUBLIC["chatbridge_instruct"]))
    old["run"]["valor_data_opts_path"] = str(tmp_path / "mix.json")
    result = migrate(write(tmp_path / "old.yaml", old))
    config = load(_written(tmp_path, result))[0]
    assert set(config["data"]["sources"]) == {"my_set", "cococap"}
    mine = config["data"]["sources"]["my_set"]
    paths = {"annotations": str(tmp_path / "mine.json"), "image_folder": str(tmp_path / "pictures")}
    assert mine == {"name": "questions", "tag": "ti-shortqa", "weight": 5, "batch": 8, **paths}
    assert config["data"]["sources"]["cococap"]["weight"] == 7 and config["data"]["mix"] == "step"
    lost = {row.key for row in result.rows if row.status == "no equal"}
    assert {"mix.json.data_cfg.train[2].task", "mix.json.data_cfg.train[3].steps"} <= lost and not result.mistakes


def test_the_command_writes_once_and_hides_keys(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """fails when a file is replaced, the exit code hides a loss, or a key of a service is printed or written"""
    from chatbridge.common.errors import ConfigError

    new, table = tmp_path / "new.yaml", tmp_path / "table.json"
    assert main([str(files["chatbridge_pretrain"]), "--out", str(new), "--json", str(table)]) == 0
    shown = capsys.readouterr().out
    assert f"train.py --cfg-path {new} --check" in shown and "wandb_key: (hidden)" in shown
    content = json.loads(table.read_text())
    assert {row["status"] for row in content["rows"]} == {"taken", "changed", "not needed"}
    assert "WANDBKEY" not in shown + new.read_text() + table.read_text()
    before = new.read_text()
    for arguments in (["--out", str(new)], ["--out", str(tmp_path / "no/folder.yaml")], ["--json", str(table)]):
        with pytest.raises(ConfigError, match=r"exists, and is not replaced|does not exist"):
            main([str(files["chatbridge_pretrain"]), *arguments])
    assert new.read_text() == before
    assert main([str(files["minigpt4_stage2"])]) == 0  # without --out: the file alone on standard output
    out = capsys.readouterr()
    assert out.out.startswith("# Migrated") and "taken (" in out.err


def test_lavis_questions_keep_their_prompt(migrated: dict[str, Migrated]):
    """fails when the prompt of a LAVIS model is lost in training, or settings of answers count as unknown"""
    rows = {row.key: row for row in migrated["instructblip_questions"].rows}
    assert "prompt: 'Question: <QUESTION> Short Answer:'" in migrated["instructblip_questions"].text
    assert rows["run.max_len"].status == rows["run.num_beams"].status == "not needed"
    assert "Question: <QUESTION> Short answer:" in migrated["blip2_vqa"].text and migrated["blip2_vqa"].limits


def test_iterations_are_micro_batches_in_the_original_and_steps_of_the_optimizer_here(tmp_path: Path):
    """fails when a run that accumulates trains on other samples, or its schedule has another length, than the old one:
    12 epochs of 101 iterations with 2 to a step are 600 steps"""
    old = json.loads(json.dumps(PUBLIC["minigpt4_stage1"]))
    own = {"max_epoch": 12, "iters_per_epoch": 101, "warmup_steps": 30, "log_freq": 50, "save_freq": 3}
    old["run"] |= {"accum_grad_iters": 2, **own}
    old["datasets"]["cc_sbu"]["batch_size"] = 16
    result = migrate(write(tmp_path / "old.yaml", old), ranks=4)
    new = _settings(_written(tmp_path, result))
    expected = {"max_steps": 600, "schedule.epoch_steps": 50, "schedule.warmup_steps": 15, "log_every": 25,
                "save_every": 150, "accumulate": 2, "micro_batch": 64}  # fmt: skip
    assert {key: new[f"run.{key}"] for key in expected} == expected
    batches = [new[f"data.sources.minigpt4_{name}.batch"] for name in ("laion", "cc_sbu")]
    assert batches == [64 * 4 * 2, 16 * 4 * 2], "of an optimizer step: samples x ranks x micro-batches"
    notes = {row.key: row.note for row in result.rows if row.status == "changed"}
    assert "of 2 iterations each" in notes["run.warmup_steps"] and "take their sum" in notes["run.accum_grad_iters"]

    old["run"] |= {"max_iters": 900, "iters_per_inner_epoch": 300}
    new = _settings(_written(tmp_path, migrate(write(tmp_path / "old.yaml", old))))
    assert (new["run.max_steps"], new["run.schedule.epoch_steps"], new["run.save_every"]) == (450, 150, 450)


def test_only_the_configurations_of_a_package_are_defaults(tmp_path: Path):
    """Fails when those of an unrelated checkout beside the old file change its values."""
    old = write(tmp_path / "mine/old.yaml", PUBLIC["minigpt4_stage1"])
    other = tmp_path / "mine/other"
    for names in MODEL_FILES.values():
        for name in names:
            write(other / "configs/models" / name, {"model": {"end_sym": "@@"}})
    assert read_original(old).files == []
    (other / "__init__.py").touch()
    assert len(read_original(old).files) == 1
