"""The record files of the stamps run: what is held out, what is balanced, and what the texts tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from chatbridge.common.errors import DataError
from chatbridge.common.seeds import stream
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders.records import Records
from dataset_prep.stamps import balance, captions, clips, pairs, pictures, sounds, splits, svg, text_baseline
from dataset_prep.stamps.material import collect
from dataset_prep.stamps.records import Record, image, record, text
from dataset_prep.stamps.write_files import write_all

HEARD = [
    *("cow", "dog", "horse", "goat", "lion", "bear", "wolf", "frog", "toad", "duck"),
    *("crow", "bee", "seal", "fox", "mouse", "sheep", "pig", "cat", "hen", "lark"),
]
FISH = ("fish", "moth", "snail", "crab", "newt", "shrimp", "slug", "wasp", "perch", "squid")
SEEN_ONLY = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in FISH]


def write_stamp(folder: Path, key: str, caption: str, *, sound: int | None = None, settings: str = "") -> None:
    """A stamp; `sound` is the seed of its noise."""
    path = folder / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stream(0, key).integers(0, 256, (8, 12, 4), dtype=np.uint8)).save(path)
    path.with_suffix(".txt").write_text(f"{caption}\nfr.utf8=Une image.\n", encoding="utf-8")
    if settings:
        path.with_suffix(".dat").write_text(settings, encoding="utf-8")
    if sound is not None:
        length = 4000 + 60 * sound
        soundfile.write(str(path.with_suffix(".ogg")), 0.3 * stream(sound, "sound").standard_normal(length), 8000)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    for number, name in enumerate(HEARD):
        write_stamp(folder, f"animals/mammals/{name}", f"A {name}.", sound=number)
    for number, name in enumerate(SEEN_ONLY):
        for variant in ("", "-2")[: 1 + number % 2]:
            write_stamp(folder, f"animals/fish/{name.replace(' ', '_')}{variant}", f"A {name}.")
    write_stamp(folder, "animals/birds/rhea", "A rhea.", sound=100)
    write_stamp(folder, "animals/lizards/iguana", "An iguana.", sound=100)  # the same recording
    write_stamp(folder, "symbols/alphabets/a", "The letter a.")
    write_stamp(folder, "town/sign", "This means that one should wait here.", settings="noflip nomirror")
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for number, name in enumerate(("bd_a", "bd_b", "bd_c", "bd_d", "tabla_x", "misc_unnamed")):
        soundfile.write(str(folder / f"{name}.flac"), 0.3 * stream(number, "sample").standard_normal(6000), 16000)
    return folder


@pytest.fixture(scope="module")
def written(package: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    out = tmp_path_factory.mktemp("out")
    return out, write_all(package, samples, out)


def lines(written: tuple[Path, Record], name: str) -> list[Record]:
    return [json.loads(line) for line in (written[0] / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def media(one: Record) -> set[str]:
    return {part["path"] for message in one["messages"] for part in message["content"] if "path" in part}


# ---------------------------------------------------------------- pictures and splits


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A great blue heron.", ("a", "great blue heron")),
        ("An albino peahen (a female peafowl, or peacock).", ("an", "albino peahen")),
        ("A “Fuji” apple.", ("a", "Fuji apple")),
        ("A pair of cherries.", ("a", "pair of cherries")),
        ("Say cheese!", ("", "")),
        ("A tough car like this one gets you there, and joins in.", ("", "")),
    ],
)
def test_noun_phrase(caption: str, expected: tuple[str, str]) -> None:
    assert pictures.noun_phrase(caption) == expected


def test_variants_and_equal_captions_are_one_thing() -> None:
    found = splits.things(
        {
            "a/frog": "A frog.",
            "a/frog-1": "Another frog.",
            "b/toad": "The frog.",
            "food/fruit/cartoon/Strawberry2": "Some fruit.",
            "food/fruit/strawberry": "A strawberry.",
            "a/cow": "A cow.",
        }
    )
    assert found["a/frog"] == found["a/frog-1"] == found["b/toad"]
    assert found["food/fruit/cartoon/Strawberry2"] == found["food/fruit/strawberry"]
    assert len(set(found.values())) == 3


def test_a_thing_is_in_one_split_and_things_with_a_sound_are_for_training(package: Path) -> None:
    stamps = pictures.read_stamps(package)
    split_of: dict[str, set[str]] = {}
    for stamp in stamps:
        split_of.setdefault(stamp.thing, set()).add(stamp.split)
    assert all(len(found) == 1 for found in split_of.values())
    assert {stamp.split for stamp in stamps if stamp.sound} == {splits.TRAIN}
    assert {stamp.split for stamp in stamps if not stamp.sound} >= {splits.TRAIN, splits.TEST}
    assert not any("alphabets" in stamp.key for stamp in stamps)


def test_shares_of_the_splits() -> None:
    found = Counter(splits.split_of(f"thing {number}") for number in range(4000))
    assert found[splits.TEST] == pytest.approx(4000 * splits.SHARES[splits.TEST], rel=0.15)
    assert found[splits.VALIDATION] == pytest.approx(4000 * splits.SHARES[splits.VALIDATION], rel=0.2)


def test_no_held_out_picture_name_or_sound_is_in_a_training_file(written: tuple[Path, Record]) -> None:
    trained = [one for name in ("captions", "sounds", "talk", "pairs") for one in lines(written, f"{name}_train")]
    paths = {path for one in trained for path in media(one)}
    said = " ".join(json.dumps(one["messages"]) for one in trained)
    for name in ("captions_test", "captions_validation", "picture_choices_test", "sound_choices_test", "sounds_test"):
        assert not paths & {path for one in lines(written, name) for path in media(one)}, name
    assert not paths & {path for one in lines(written, "pair_choices_test") for path in media(one)}
    unseen = [one["messages"][-1]["content"] for one in lines(written, "captions_test")]
    assert unseen
    for caption in unseen:
        assert caption.rstrip(".").lower() not in said.lower()


def test_a_caption_that_names_nothing_is_left_out(package: Path) -> None:
    asked = list(captions.captions(pictures.read_stamps(package), seed=1))
    assert not any("one should wait" in one["messages"][1]["content"] for one in asked)


# ---------------------------------------------------------------- sounds


def test_a_recording_of_several_things_is_left_out(package: Path, samples: Path) -> None:
    names = {one.name for one in sounds.recordings(pictures.read_stamps(package), samples)}
    assert {"a cow", "a bass drum", "a tabla"} <= names
    assert not names & {"a rhea", "an iguana"}


def test_held_out_sounds(package: Path, samples: Path, tmp_path: Path) -> None:
    parts = sounds.held_out(sounds.recordings(pictures.read_stamps(package), samples))
    drums = [one for one in parts if one.name == "a bass drum"]
    assert [one.held_out for one in drums] == ["", "", "", "recording"]
    assert len({one.path for one in drums}) == 4
    assert sorted(one.held_out for one in parts if one.name == "a cow") == ["", "altered"]
    long = tmp_path / "long.wav"
    soundfile.write(str(long), stream(1, "long").standard_normal(16000 * 3) * 0.2, 16000)
    first, last = sounds.held_out([sounds.Recording(long, "a gnu", "animal")])
    assert (first.held_out, last.held_out) == ("", "section")
    assert first.part[1] == last.part[0]


def test_clips_have_one_length_and_one_loudness(tmp_path: Path) -> None:
    for number, (rate, seconds, gain) in enumerate([(44100, 0.4, 0.9), (11127, 1.3, 0.01), (8000, 9.0, 0.3)]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(str(path), gain * stream(number, "clip").uniform(-1, 1, round(rate * seconds)), rate)
        made = clips.clip(sounds.Recording(path, "a dog", "animal"), clips.Alteration("slower", 0.9))
        assert made.shape == (48000,)
        assert float(np.sqrt(np.mean(made**2))) == pytest.approx(clips.LOUDNESS, rel=0.05)


def test_a_clip_keeps_the_pitch_at_its_speed(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(str(path), 0.5 * np.sin(2 * np.pi * 1000 * np.arange(22050) / 22050), 22050)
    for speed in (1.0, 0.92, 1.08):
        made = clips.clip(sounds.Recording(path, "a tone", "thing"), clips.Alteration("x", speed))
        assert np.abs(np.fft.rfft(made)).argmax() / clips.SECONDS == pytest.approx(1000 * speed, abs=3)


# ---------------------------------------------------------------- balance


def test_every_name_is_wrong_as_often_as_it_is_right() -> None:
    names = [f"name {number}" for number in range(17)]
    found = balance.others(names, 3, 5, "test")
    assert Counter(other for wrong in found.values() for other in wrong) == dict.fromkeys(names, 3)
    assert all(name not in wrong and len(set(wrong)) == 3 for name, wrong in found.items())
    with pytest.raises(ValueError, match="3 wrong options need more than 3 names, there are 3"):
        balance.others(names[:3], 3, 5, "test")


def test_yes_and_no_are_equally_frequent_for_every_name(written: tuple[Path, Record]) -> None:
    count: dict[str, Counter[str]] = {}
    for one in lines(written, "talk_train"):
        if " yes" in one["id"] or " no" in one["id"].removesuffix(" 0"):
            asked = one["messages"][0]["content"][-1]["text"]
            name = max((name for name in [*HEARD, *SEEN_ONLY] if re.search(rf"\b{name}\b", asked)), key=len, default="")
            count.setdefault(f"{media(one).pop().endswith('.wav')} {name}", Counter())[one["id"].split()[-1]] += 1
    assert len(count) > 20
    for name, found in count.items():
        if name.split(" ", 1)[1] in HEARD:
            assert found["yes"] == found["no"], name


def test_exchanged_names_keep_their_number() -> None:
    names = ["a"] * 5 + ["b"] + ["c", "d"] * 2 + ["a", "e"]
    found = balance.exchanged(names, 3, "test")
    assert Counter(found) == Counter(names)
    assert all(own != other for own, other in zip(names, found, strict=True))
    with pytest.raises(ValueError, match="'a' is the name of 3 of 4"):
        balance.exchanged(["a", "a", "a", "b"], 3, "test")


def test_options_of_a_pair(written: tuple[Path, Record]) -> None:
    asked = [one for one in lines(written, "pair_choices_test") if one["details"]["kind"] == "both"]
    letters = Counter(one["details"]["answer"] for one in asked)
    assert max(letters.values()) - min(letters.values()) <= 1
    for one in asked:
        options = one["details"]["options"]
        seen, heard = zip(*(option.rstrip(".").lower().split(" and ") for option in options.values()), strict=True)
        at = list(options).index(one["details"]["answer"])
        assert seen.count(seen[at]) == heard.count(heard[at]) == 2
        assert len(set(options.values())) == 4
        assert {pairs.is_paired(name) for name in (*seen, *heard)} == {one["details"]["paired"] == "known"}


def test_pairs_of_the_test_are_new(written: tuple[Path, Record]) -> None:
    trained, test = lines(written, "pairs_train"), lines(written, "pair_choices_test")
    told = {one["messages"][1]["content"] for one in trained}
    for one in test:
        if one["details"]["kind"] == "both":
            assert one["messages"][-1]["content"] not in told
    together = {
        name for one in trained for name in HEARD if any(Path(path).stem.startswith(name) for path in media(one))
    }
    assert together
    assert all(pairs.is_paired(f"a {name}") for name in together)
    never = {one["details"]["paired"] for one in test}
    assert never == {"known", "never"}
    verdicts = Counter(one["messages"][-1]["content"] for one in test if one["details"]["kind"] == "same")
    assert verdicts["Yes."] == verdicts["No."] > 0


def test_text_baseline_is_at_chance_and_finds_a_leak(written: tuple[Path, Record]) -> None:
    for name, found in written[1]["text_only"].items():
        spread = (found["chance"] * (1 - found["chance"]) / found["questions"]) ** 0.5
        assert found["text_only"] <= found["chance"] + 3 * spread, name
        assert found["word_prior"] <= found["chance"] + 3 * spread, name
    leak = [record("x", [text(f"Is it loud {word}?")], word.title()) for word in ("yes", "no") for _ in range(5)]
    options = {"A": "Yes", "B": "No"}
    test = [
        {**one, "details": {"kind": "k", "options": options, "answer": "AB"[at >= 5]}} for at, one in enumerate(leak)
    ]
    assert text_baseline.text_baseline(leak, test)["k"] == (1.0, 0.5, 10)


# ---------------------------------------------------------------- files


def test_the_project_reads_every_file(written: tuple[Path, Record]) -> None:
    out, found = written
    for name, count in found["conversations"].items():
        if not count:
            continue
        data = Records(Records.Config(file=out / name), name)
        assert len(data) == count > 0
        conversation = data.record(0, stream(0, "x")).conversation
        assert any(isinstance(part, Media) for message in conversation for part in message.parts)


def test_nothing_of_the_package_is_copied_unaltered(written: tuple[Path, Record], package: Path) -> None:
    content = {path.read_bytes() for path in package.rglob("*") if path.is_file()}
    assert not any(path.read_bytes() in content for path in written[0].rglob("*") if path.is_file())


def test_a_second_run_changes_nothing(written: tuple[Path, Record], package: Path, samples: Path) -> None:
    before = {path: path.read_bytes() for path in written[0].rglob("*") if path.is_file()}
    write_all(package, samples, written[0])
    assert {path: path.read_bytes() for path in written[0].rglob("*") if path.is_file()} == before


def test_missing_packages(written: tuple[Path, Record], package: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: has no stamps .*tuxpaint-stamps-default.*stamps\.fetch"):
        write_all(tmp_path / "nowhere", None, tmp_path / "out")
    nothing = tmp_path / "nothing"
    found = collect(package, nothing, written[0])
    assert found.notes == [f"{nothing}: there are no samples; install the Debian package sonic-pi-samples"]
    assert {one.name for one in found.heard} == {f"a {name}" for name in HEARD}


@pytest.mark.parametrize(("ending", "what"), [("png", "a picture"), ("ogg", "a sound")])
def test_damaged_files_are_named(tmp_path: Path, ending: str, what: str) -> None:
    write_stamp(tmp_path / "stamps", "animals/mammals/cow", "A cow.", sound=1)
    damaged = tmp_path / "stamps" / "animals" / "mammals" / f"cow.{ending}"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"cow\.{ending}: cannot be read as {what} .*install its package again"):
        collect(tmp_path / "stamps", None, tmp_path / "out")


def test_drawings_need_a_renderer(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = tmp_path / "stamps" / "animals" / "ant.svg"
    drawing.parent.mkdir(parents=True)
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="1cm" height="1cm"/>', encoding="utf-8")
    drawing.with_suffix(".txt").write_text("An ant.\n", encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    assert svg.render(drawing.parents[1], tmp_path / "copies") == (
        0,
        "1 drawings that exist as SVG only are left out; `pip install resvg-py` renders them",
    )


def test_a_stamp_is_used_where_it_is(package: Path) -> None:
    stamp = next(one for one in pictures.read_stamps(package) if one.name == "cow")
    assert image(stamp.path)["path"] == str((package / "animals/mammals/cow.png").absolute())
