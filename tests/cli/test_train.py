"""Training on a miniature world: the same code, files and formats as a real run, in seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError, TrainingError
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.loading import read_state
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.train_runs import LAST, losses, records, run, run_processes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


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


def test_a_loss_that_is_not_finite_ends_the_run(world, tmp_path):
    """fails when weights change after a loss of nan, or the conversations are not named"""
    config = world.experiment(tmp_path / "run", clip_norm=None, optimizer={"lr": 1e30}, schedule={"kind": "constant"})
    with pytest.raises(TrainingError, match=r"not finite; no weight changed.*not_finite_00000\d\.json"):
        run(config, tmp_path)
    (path,) = (tmp_path / "run").glob("not_finite_*.json")
    assert json.loads(path.read_text())["ranks"][0][0]["ids"]


@pytest.mark.gpu
def test_on_a_gpu_frozen_parts_compute_in_bfloat16(world, tmp_path):
    """fails when a run on a GPU trains in half precision, or drifts from the run on the CPU by more than rounding"""
    for device in ("cpu", "cuda"):
        config = world.experiment(tmp_path / device, device=device, max_steps=10, optimizer={"lr": 1e-3})
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.02)
    state = read_state(tmp_path / "cuda/checkpoints/step_000010/model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}
