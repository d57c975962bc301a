"""Training on a miniature world: the same code, files and formats as a real run, in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError, DataError, TrainingError
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.loading import read_state
from tests.helpers.mini_world import MiniWorld, train_command, write_yaml
from tests.helpers.tiny_media import jpeg

LAST = "checkpoints/step_000004"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def run(config: dict[str, Any], folder: Path, *options: str) -> int:
    """train.py in this process."""
    path = write_yaml(folder / "train.yaml", config)
    return train.main(["--cfg-path", str(path), *(["--options", *options] if options else [])])


def run_processes(config: dict[str, Any], folder: Path, *options: str, num_processes: int = 1) -> Any:
    path = write_yaml(folder / "train.yaml", config)
    command = train_command(path, *options, num_processes=num_processes)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, cwd=folder)


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in records(folder)]


def test_a_run_writes_every_documented_file(world, tmp_path):
    """fails when resolved.yaml, metrics, curves, checkpoints, answers or their scores are not in the run folder"""
    config = world.experiment(tmp_path / "run")
    config["evaluation"] = {"tasks": world.tasks()}
    assert run(config, tmp_path) == 0
    folder = tmp_path / "run"
    resolved = yaml.safe_load((folder / "resolved.yaml").read_text())
    assert resolved["run"]["schedule"]["kind"] == "cosine"  # defaults are filled in
    assert [record["step"] for record in records(folder)] == [1, 2, 3, 4]
    assert set(records(folder)[1]["per_source"]) <= set(config["data"]["sources"])
    assert list((folder / "tensorboard").glob("events*"))
    assert "step 4/4  loss" in (folder / "run.log").read_text()
    assert all((folder / LAST / name).is_file() for name in ("model.safetensors", "optimizer.pt", "state.json"))
    manifest = json.loads((folder / LAST / "manifest.json").read_text())
    assert manifest["model"]["bridges"]["perceiver"]["name"] == "qformer"
    assert manifest["template"]["name"] == "vicuna_v0"
    results = json.loads((folder / "evaluation/step_000004/metrics.json").read_text())
    assert results["image_qa"]["count"] == 6 and set(results["image_qa"]["by"]["kind"]) == {"color"}
    answers = (folder / "evaluation/step_000004/predictions_image_qa.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in answers] == list(range(6))


def test_evaluation_during_training_does_not_change_it(world, tmp_path):
    """fails when an evaluation changes the mode, a random state or a tensor of the training"""
    for name, every in (("quiet", None), ("asked", 1)):
        config = world.experiment(tmp_path / name)
        config["model"] = world.model(dropout=0.2)
        tasks = {"image_qa": world.tasks()["image_qa"]}
        config["evaluation"] = {"tasks": tasks, "every": every}
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "quiet") == losses(tmp_path / "asked")
    assert len(list((tmp_path / "asked/evaluation").iterdir())) == 4
    assert len(list((tmp_path / "quiet/evaluation").iterdir())) == 1


def test_only_trainable_tensors_change(world, tmp_path):
    """fails when promise 2 does not hold for a whole model: a frozen tensor in the checkpoint, or one left out"""
    config = world.experiment(tmp_path / "run", max_steps=2)
    config["model"]["trainable"] = ["bridges.perceiver.output.*", "bridges.perceiver.queries.*"]
    config["data"]["mix"] = "sample"
    assert run(config, tmp_path) == 0
    state = read_state(tmp_path / "run/checkpoints/step_000002/model.safetensors")
    assert {name.split(".")[2] for name in state} == {"output", "queries"}


def test_resume_equals_no_stop_with_a_different_number_of_workers(world, tmp_path):
    """fails when promise 4 does not hold: N + N steps differ from 2N steps in a single bit"""
    for name in ("through", "stopped"):
        config = world.experiment(tmp_path / name)
        config["model"] = world.model(dropout=0.2)
        if name == "through":
            assert run(config, tmp_path) == 0
            continue
        assert run(config, tmp_path, "run.stop_at=2") == 0
        assert (tmp_path / name / "checkpoints/step_000002/manifest.json").is_file()
        assert run(config, tmp_path, "data.num_workers=2") == 0
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    for file in ("model.safetensors", "optimizer.pt", "state.json"):
        assert _content(tmp_path / "through" / LAST / file) == _content(tmp_path / "stopped" / LAST / file), file


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".safetensors":
        return {name: value.tolist() for name, value in read_state(path).items()}
    return {
        f"{name}.{key}": value.tolist()
        for name, entries in torch.load(path, weights_only=True).items()
        for key, value in entries.items()
    }


def test_the_same_seed_gives_the_same_losses(world, tmp_path):
    """fails when a part of a run draws from an unnamed random stream, or the seed has no effect"""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(seed)
        assert run(world.experiment(tmp_path / name, seed=seed), tmp_path) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_check_prints_the_plan_and_touches_nothing(world, tmp_path, capsys):
    """fails when --check creates a run folder, reads weights, or omits parts, sources, shares, steps or the batch"""
    path = write_yaml(tmp_path / "train.yaml", world.experiment(tmp_path / "run", accumulate=3))
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    plan = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for words in (
        "perceiver",
        "frozen",
        "audio: 3 tokens per item",
        "audio_qa",
        "40.0%",
        "4 steps of 12 conversations",
    ):
        assert words in plan, plan


def test_the_plan_shows_the_share_of_each_source(world, tmp_path, capsys):
    """fails when shares of steps and of conversations are confused, or a source's cap, batch or frames are omitted"""
    config = world.experiment(tmp_path / "run", max_steps=30, accumulate=2)
    sources = config["data"]["sources"]
    sources["video_cap"] |= {"batch": 16, "frames": 3}
    sources["image_qa"] |= {"weight": "size", "cap": 2}
    sources["audio_qa"] |= {"weight": 6, "max_passes": 2}
    sources["pictures"] |= {"window_shards": 2}
    config["data"]["mix"] = "step"
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "train.yaml", config)), "--check"]) == 0
    plan = " ".join(capsys.readouterr().out.split())
    for words in (
        "one source per step",
        "source media samples of steps of conversations passes batch notes",
        "audio_qa audio 6 5.0% 4.0% 2.00 8 1 clip; limited to 2 passes",
        "image_qa image 6 47.5% 38.4% 19.00 8 counts as 2",
        "pictures image 6 23.8% 19.2% 9.50 8 streams in windows of 2 shards",
        "video_cap video 6 23.8% 38.4% 19.00 16 3 frames",
        "30 steps of 8 to 16 conversations, 9.9 on average",
        "global batch 8 = micro_batch 4 x accumulate 2 x ranks 1",
        "batches of the sources / (accumulate 2 x ranks 1) = micro-batch: 16 -> 8",
    ):
        assert words in plan, f"{words}\n{plan}"


def test_too_few_samples_for_the_run_are_reported_before_it_starts(world, tmp_path):
    """fails when max_passes of all sources is found too small after the model was built, or leaves a run folder"""
    config = world.experiment(tmp_path / "run", max_steps=30)
    for source in config["data"]["sources"].values():
        source["max_passes"] = 2
    with pytest.raises(ConfigError, match="max_passes leaves too little data") as error:
        run(config, tmp_path)
    assert "run.max_steps to at most 12" in " ".join(str(error.value).split())
    assert not (tmp_path / "run").exists()


def test_batches_that_do_not_divide_among_ranks_are_a_mistake(world, tmp_path):
    """fails when an invalid batch of a source ends a run in its first step instead of before it"""
    config = world.experiment(tmp_path / "run", accumulate=3)
    config["data"]["mix"] = "step"
    for name, batch in (("video_cap", 16), ("image_qa", 8), ("audio_qa", 6)):
        config["data"]["sources"][name]["batch"] = batch
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    assert "data.sources.video_cap.batch (" in message and "15 or 18 would work" in message
    assert "data.sources.image_qa.batch" in message and "audio_qa" not in message and "2 problems" in message


def test_media_limits_apply_to_files(world, tmp_path):
    """fails when data.media or evaluation.media has no effect"""
    config = world.experiment(tmp_path / "asked", max_steps=2)
    config["evaluation"] = {"tasks": {"image_qa": world.tasks()["image_qa"]}, "media": {"max_pixels": 100}}
    assert run(config, tmp_path) == 0
    results = json.loads((tmp_path / "asked/evaluation/step_000002/metrics.json").read_text())
    assert results["image_qa"]["unreadable"] == 6
    config = world.experiment(tmp_path / "run")
    config["data"]["sources"] = {"image_qa": world.source("questions", "ti-qa")}
    config["data"]["media"] = {"max_pixels": 100}
    with pytest.raises(DataError, match="6 samples in a row cannot be used"):
        run(config, tmp_path)
    config["data"]["media"] = {"max_pixel": 100, "max_seconds": 0}
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    assert "data.media.max_pixel" in str(error.value) and "data.media.max_seconds" in str(error.value)


def test_open_sources_of_one_batch_need_equal_frames(world, tmp_path):
    """fails when records with videos of two frames and captions with three share a batch"""
    config = world.experiment(tmp_path / "run")
    video = {"type": "video", "path": str(world.folder / "videos/v0.mp4")}
    line = {"messages": [{"role": "user", "content": [video]}, {"role": "assistant", "content": "red"}]}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    config["data"]["sources"] = {
        "records": {"name": "records", "file": str(tmp_path / "r.jsonl")},
        "video_cap": world.source("captions", "tv-cap", frames=3),
    }
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    assert "different frames into one batch (2: records; 3: video_cap)" in " ".join(str(error.value).split())


@pytest.mark.parametrize("mix", ["step", "micro"])
def test_resume_is_bit_for_bit_in_every_mix(world, tmp_path, mix):
    """fails when batches or frames of a source, or slices of one source, differ after a resume"""
    for name in ("through", "stopped"):
        config = world.experiment(tmp_path / name, micro_batch=2, accumulate=2)
        config["data"]["mix"] = mix
        config["data"]["sources"]["video_cap"] |= {"frames": 1, **({"batch": 8} if mix == "step" else {})}
        if name == "stopped":
            assert run(config, tmp_path, "run.stop_at=2") == 0
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    states = [json.loads((tmp_path / name / LAST / "state.json").read_text()) for name in ("through", "stopped")]
    assert states[0] == states[1]
    per_source = [record["per_source"] for record in records(tmp_path / "through")]
    sizes = [8 if mix == "step" and "video_cap" in sources else 4 for sources in per_source]
    assert states[0]["samples"] == sum(sizes)
    if mix == "micro":
        with pytest.raises(ConfigError, match=r"run\.micro_batch: 2 -> 4"):
            run(config, tmp_path, "run.micro_batch=4", "run.accumulate=1")


def test_stage_two_starts_where_stage_one_ended(world, tmp_path):
    """fails when init_from loses a tensor, or does not log it"""
    assert run(world.experiment(tmp_path / "stage1"), tmp_path) == 0
    second = world.experiment(tmp_path / "stage2", init_from=str(tmp_path / "stage1"), max_steps=2, save_every=1)
    second["run"]["optimizer"] = {"lr": 0.0}
    second["run"]["schedule"] = {"kind": "constant"}
    assert run(second, tmp_path) == 0
    end, start = (
        read_state(tmp_path / path / "model.safetensors")
        for path in (f"stage1/{LAST}", "stage2/checkpoints/step_000001")
    )
    assert all(torch.equal(value, start[name]) for name, value in end.items())
    assert "bridges.perceiver: " in (tmp_path / "stage2/run.log").read_text()


def test_a_finished_run_has_nothing_left_to_do(world, tmp_path):
    """fails when the same command trains again or changes existing files"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path) == 0
    before = (tmp_path / "run/metrics.jsonl").read_text()
    assert run(config, tmp_path) == 0
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_a_changed_configuration_never_overwrites_a_run(world, tmp_path):
    """fails when a changed setting is not reported, or the message omits the change or the next step"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path, "run.stop_at=2") == 0
    before = (tmp_path / "run/resolved.yaml").read_text()
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path, "run.optimizer.lr=0.5", "run.log_every=7")
    message = str(error.value)
    assert "run.optimizer.lr: 0.01 -> 0.5" in message and "log_every" not in message
    assert "choose another run.output_dir" in message and "step_000002" in message
    assert (tmp_path / "run/resolved.yaml").read_text() == before
    with pytest.raises(ConfigError, match="run.resume"):
        run(config, tmp_path, "run.resume=never")
    checkpoint = tmp_path / "run/checkpoints/step_000002"
    assert run(config, tmp_path, "run.optimizer.lr=0.5", f"run.resume={checkpoint}") == 0


def test_the_global_batch_of_a_resume_must_stay(world, tmp_path):
    """fails when a resume reads different conversations, or refuses the same number in different micro-batches"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path, "run.stop_at=2") == 0
    with pytest.raises(ConfigError, match=r"(?s)4 conversations per step.*run\.resume=\S*step_000002"):
        run(config, tmp_path, "run.micro_batch=3")
    assert run(config, tmp_path, "run.micro_batch=2", "run.accumulate=2") == 0


def test_data_that_changed_during_a_run_is_reported(world, tmp_path):
    """fails when a file that grew changes the order of a resumed run without a message, or the override is not named"""
    config = world.experiment(tmp_path / "run")
    grown = tmp_path / "grown.json"
    lines = json.loads(Path(config["data"]["sources"]["image_qa"]["annotations"]).read_text())
    grown.write_text(json.dumps(lines))
    config["data"]["sources"]["image_qa"]["annotations"] = str(grown)
    assert run(config, tmp_path, "run.stop_at=2") == 0
    grown.write_text(json.dumps([*lines, lines[0]]))
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    assert "data.sources.image_qa had 6 samples when" in message and "now it has 7" in message
    checkpoint = tmp_path / "run/checkpoints/step_000002"
    assert f"run.resume={checkpoint}" in message
    assert run(config, tmp_path, f"run.resume={checkpoint}") == 0


def test_every_mistake_is_reported_at_once(world, tmp_path):
    """fails when one mistake hides another, a traceback appears, the exit code is not 2, or a run folder is created"""
    config = world.experiment(tmp_path / "run")
    config["run"]["max_stepz"] = config["run"].pop("max_steps")
    config["run"]["micro_batch"] = "many"
    config["model"]["encoders"]["vision"] = {**config["model"]["encoders"]["vision"], "name": "eva_vitt"}
    config["model"]["language"] = {**config["model"]["language"], "weights": "???"}
    config["data"]["sources"]["image_qa"]["annotations"] = str(tmp_path / "nowhere.json")
    (tmp_path / "empty.json").write_text("[]")
    config["data"]["sources"]["video_cap"]["annotations"] = str(tmp_path / "empty.json")
    done = run_processes(config, tmp_path)
    assert done.returncode == 2, done.stderr
    for words in (
        "run.max_stepz", "did you mean max_steps", "run.micro_batch", "'many'", "did you mean eva_vit?", "???",
        "nowhere.json", "data.sources.video_cap", "no samples", "train.yaml",
    ):  # fmt: skip
        assert words in " ".join(done.stderr.split()), f"{words}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(world, tmp_path):
    """fails when a second training moves the files of a running one, or a lock outlives its process"""
    path = write_yaml(tmp_path / "train.yaml", world.experiment(tmp_path / "run", max_steps=2))
    (tmp_path / "run").mkdir()
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire()\n"
        "print('on', flush=True); input()"
    )
    lock = [sys.executable, "-c", code, str(tmp_path / "run/.lock")]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "on\n"
        with pytest.raises(ConfigError, match="another process trains in it"):
            train.main(["--cfg-path", str(path)])
        assert [one.name for one in (tmp_path / "run").iterdir()] == [".lock"]
        other.kill()
    assert train.main(["--cfg-path", str(path)]) == 0


def test_a_misspelled_template_is_reported_with_other_mistakes(world, tmp_path):
    """fails when the name of a template is checked only after the model was built, or without its line"""
    config = world.experiment(tmp_path / "run", max_stepz=3)
    config["model"]["language"] |= {"template": "vicuna_v1", "weights": str(tmp_path / "nowhere")}
    config["data"] |= {"template": "vicuna", "num_workers": "many"}
    config["evaluation"] = {"template": "captoin", "every": 0}
    with pytest.raises(ConfigError) as caught:
        open_data(open_config(Experiment, write_yaml(tmp_path / "train.yaml", config)))
    found = {problem.path: problem for problem in caught.value.problems}
    for path, meant in (("model.language", "vicuna_v0"), ("data", "vicuna_v0"), ("evaluation", "caption")):
        assert found[f"{path}.template"].nearest == meant
        assert found[f"{path}.template"].file and found[f"{path}.template"].line
    assert len(found) == 7


def test_a_modality_without_a_route_is_a_mistake_of_the_configuration(world, tmp_path):
    """fails when it is found in the middle of a run, once per sample"""
    config = world.experiment(tmp_path / "run")
    del config["model"]["routes"]["audio"], config["model"]["encoders"]["audio"]
    with pytest.raises(ConfigError, match="holds audio, for which the model has no route"):
        run(config, tmp_path)


def test_broken_files_are_replaced_and_logged(world, tmp_path):
    """fails when one broken image ends the run, or is not in the failure log"""
    config = world.experiment(tmp_path / "run", max_steps=6)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=1)}
    assert run(config, tmp_path) == 0
    failures = [json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()]
    assert failures and all(one["source"] == "broken" and one["replaced_by"] for one in failures)
    assert sum(record["failures"] for record in records(tmp_path / "run")) == len(failures)


def test_samples_in_quarantine_are_replaced_and_counted_apart(world, tmp_path):
    """fails when the list is not read, counts against the budget, or prevents a resume"""
    config = world.experiment(tmp_path / "run", max_steps=6)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=1)}
    assert run(config, tmp_path, "run.stop_at=2") == 0
    listed = write_jsonl(tmp_path / "quarantine.jsonl", {"source": "broken", "id": "i0", "reason": "half an image"})
    config["data"] |= {"quarantine": str(listed)}
    config["data"]["sources"]["broken"]["failure_budget"] = 0.5
    assert run(config, tmp_path) == 0
    failures = [json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()]
    assert {one["kind"] for one in failures} == {"failed", "quarantined"} and {one["id"] for one in failures} == {"i0"}
    assert sum(record["failures"] for record in records(tmp_path / "run")[2:]) == 0
    (tmp_path / "quarantine.jsonl").write_text("i0")
    with pytest.raises(DataError, match=r"quarantine\.jsonl, line 1"):
        run(config, tmp_path)


def write_jsonl(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_too_many_broken_files_end_the_run_with_the_list(world, tmp_path):
    """fails when the failure budget is not enforced, or one of two ranks ends in a traceback"""
    config = world.experiment(tmp_path / "run", max_steps=60, save_every=60)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=2)}  # step 1 keeps the budget
    done = run_processes(config, tmp_path, num_processes=2)
    assert done.returncode != 0
    assert "source 'broken'" in done.stderr and "failure_budget" in done.stderr
    assert 'train.py", line' not in done.stderr, "our traceback, not torchrun's"
    assert list((tmp_path / "run/checkpoints").glob("step_*/manifest.json")), "the steps before are lost"


def _broken_source(world: MiniWorld, folder: Path, num_broken: int) -> dict[str, Any]:
    for number in range(6):
        content = jpeg(40 * number, side=32)
        path = folder / "images" / f"i{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[: len(content) // 2 if number < num_broken else None])
    return {**world.source("questions", "ti-qa"), "image_folder": str(folder / "images")}


def test_a_loss_that_is_not_finite_ends_the_run(world, tmp_path):
    """fails when weights change after a loss of nan, or the conversations are not named"""
    config = world.experiment(tmp_path / "run", clip_norm=None, optimizer={"lr": 1e30}, schedule={"kind": "constant"})
    with pytest.raises(TrainingError, match=r"not finite; no weight changed.*not_finite_00000\d\.json"):
        run(config, tmp_path)
    (path,) = (tmp_path / "run").glob("not_finite_*.json")
    assert json.loads(path.read_text())["ranks"][0][0]["ids"]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_ctrl_c_saves_and_the_same_command_goes_on(world, tmp_path, num_processes):
    """fails when Ctrl-C in a terminal loses the step, leaves no checkpoint, or prints a worker's traceback"""
    config = world.experiment(tmp_path / "run", max_steps=100_000, save_every=100_000, micro_batch=4 // num_processes)
    config["data"]["num_workers"] = 1
    path = write_yaml(tmp_path / "train.yaml", config)
    command = train_command(path, num_processes=num_processes)
    child = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "run/metrics.jsonl"
    until = time.monotonic() + 300
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2) and time.monotonic() < until:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # a terminal signals everybody in the foreground
    _, said = child.communicate(timeout=180)
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("step_*")
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert f"stopped after step {step} on request" in said
    assert len(records(tmp_path / "run")) == step
    if num_processes == 1:
        assert child.returncode == 130, said
        assert "Traceback" not in said
    assert run(config, tmp_path, f"run.stop_at={step + 2}", "run.micro_batch=4", "data.num_workers=0") == 0
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, step + 3))


def test_unreadable_data_is_distinguished_from_an_invalid_setting(world, tmp_path):
    """fails when a source with only broken files hangs, or replaces samples without end"""
    config = world.experiment(tmp_path / "run")
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=6)}
    with pytest.raises(DataError, match="6 samples in a row cannot be used"):
        run(config, tmp_path)


@pytest.mark.gpu
def test_on_a_gpu_frozen_parts_compute_in_bfloat16(world, tmp_path):
    """fails when a run on a GPU trains in half precision, or drifts from the run on the CPU by more than rounding"""
    for device in ("cpu", "cuda"):
        config = world.experiment(tmp_path / device, device=device, max_steps=10, optimizer={"lr": 1e-3})
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.02)
    state = read_state(tmp_path / "cuda/checkpoints/step_000010/model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}
