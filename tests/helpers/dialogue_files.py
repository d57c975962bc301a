"""Miniatures of public files of dialogues and instructions, field for field as they are published."""

from __future__ import annotations

from tests.helpers.miniature import Miniature, ask, reply

AVSD = {"type": "train", "version": "0.1", "dialogs": [{
    "image_id": "7UPGT", "caption": "person is walking", "summary": "A man walks.", "script": "...",
    "dialog": [{"question": "is there only one person ?", "answer": "yes , one man"},
               {"question": "any sound ?", "answer": "some music"}]}]}  # fmt: skip
AVSD_TEST = {"type": "test", "version": "0.1", "dialogs": [
    {"image_id": "7UPGT", "caption": "__UNDISCLOSED__", "summary": "__UNDISCLOSED__", "dialog": [
        {"question": "is there only one person ?", "answer": "yes , one man"},
        {"question": "any sound ?", "answer": "__UNDISCLOSED__"}]},
    {"image_id": "2WSPB", "caption": "__UNDISCLOSED__", "summary": "__UNDISCLOSED__", "dialog": [
        {"question": "does he talk ?", "answer": "__UNDISCLOSED__"}]}]}  # fmt: skip
AVSD_MULTIREF = {
    "info": {}, "licenses": [], "type": "captions",
    "images": [{"id": 1, "name": "2WSPB_0"}, {"id": 2, "name": "7UPGT_1"}],
    "annotations": [{"image_id": 2, "id": 1, "caption": "there is some music"},
                    {"image_id": 1, "id": 2, "caption": "no"}, {"image_id": 2, "id": 3, "caption": "yes , music"}],
}  # fmt: skip

DIALOGUE_FILES = {
    "llava": Miniature(
        builder="dialogues", settings={"format": "llava", "tag": "ti-conv"}, count=2, id="000000033471",
        files={"llava_v1_5_mix665k": [
            {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
                {"from": "human", "value": "<image>\nWhat colors?"}, {"from": "gpt", "value": "White and red."},
                *[{"from": who, "value": f"m{n}"} for n, who in enumerate(["human", "gpt"] * 5)]]},
            {"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]},
        media=("coco/train2017/000000033471.jpg",), references=("m9",),
        first=(ask("What colors?", "coco/train2017/000000033471.jpg"), reply("White and red."),
               *[(ask, reply)[n % 2](f"m{n}") for n in range(10)]),
        breaks=((0, "conversations", 1, "from"), "gtp", "record 0: turn 1: 'from' is 'gtp'"),
    ),
    "sharegpt_media": Miniature(
        builder="dialogues", settings={"format": "sharegpt", "tag": "ti-conv"}, count=1, id="s",
        media=("a.png", "b.png"),
        files={"sharegpt": [{"id": "s", "images": ["a.png", "b.png"], "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "user", "value": "<image>\nNow compare it with\n<image>"},
            {"from": "assistant", "value": "Larger."}, {"from": "user", "value": "And then?"}]}]},
        first=(("system", "Be brief.", ()), ask("Now compare it with", "a.png", "b.png"), reply("Larger.")),
        references=("Larger.",), breaks=((0, "images"), [1.5, None], "record 0: 'images' holds null"),
    ),
    "avsd": Miniature(
        builder="dialogues", settings={"format": "avsd", "tag": "tva-conv", "context": ["summary"]}, count=1,
        id="7UPGT",
        files={"train_set4DSTC7-AVSD": AVSD}, media=("7UPGT.mp4",), references=("some music",),
        first=(ask("A man walks.\nis there only one person ?", "7UPGT.mp4", "7UPGT.mp4"), reply("yes , one man"),
               ask("any sound ?"), reply("some music")),
        breaks=(("dialogs", 0, "dialog"), [], "dialogs, record 0: 'dialog' has no rounds"),
    ),
    "avsd_test": Miniature(
        builder="dialogues", settings={"format": "avsd", "tag": "tv-conv"}, count=2, id="7UPGT",
        files={"test_set4DSTC7-AVSD": AVSD_TEST, "references": AVSD_MULTIREF}, media=("7UPGT.mp4",),
        references=("there is some music", "yes , music"), details={"rounds": 2},
        first=(ask("is there only one person ?", "7UPGT.mp4"), reply("yes , one man"), ask("any sound ?"),
               reply("there is some music")),
        breaks=(("dialogs", 0, "image_id"), "AAAAA",
                "the last question, round 1, has no answers in references.json, which has none"),
    ),
    "videochat": Miniature(
        builder="dialogues", settings={"format": "videochat", "tag": "tv-conv"}, count=1, id="046401_046450/10.mp4",
        files={"videochat_instruct_11k": [{"video": "046401_046450/10.mp4", "QA": [
            {"i": "Answer in detail.", "q": "What happens?", "a": "A dog runs."},
            {"q": "Where?", "a": "In a park."}]}]},
        media=("046401_046450/10.mp4",), references=("In a park.",),
        first=(ask("Answer in detail. What happens?", "046401_046450/10.mp4"), reply("A dog runs."), ask("Where?"),
               reply("In a park.")),
        breaks=((0, "QA", 1), "Where?", "record 0: QA 1 is the text 'Where?', expected an object with 'q' and 'a'"),
    ),
    "video_chatgpt": Miniature(
        builder="dialogues", settings={"format": "videochat", "tag": "tv-det"}, count=2, id="v_k_ZXmr8pmrs",
        files={"VideoInstruct100K": [{"q": "What is shown?", "a": "Tennis.", "video_id": "v_k_ZXmr8pmrs"},
                                     {"q": "Who?", "a": "A woman.", "video_id": "v_k_ZXmr8pmrs"}]},
        media=("v_k_ZXmr8pmrs.mkv",), references=("Tennis.",),
        first=(ask("What is shown?", "v_k_ZXmr8pmrs.mkv"), reply("Tennis.")),
        breaks=((1, "a"), ..., "record 1: has no 'a'"),
    ),
    "alpaca": Miniature(
        builder="instructions", settings={"format": "alpaca", "preamble": True}, count=2,
        id="alpaca_data.json, record 0",
        files={"alpaca_data": [{"instruction": "Sort.", "input": "3, 1", "output": "1, 3"},
                               {"instruction": "Generate.", "input": "", "output": ""},
                               {"instruction": "Name a color.", "input": "", "output": "Red"}]},
        first=(("system", "Below is an instruction that describes a task, paired with an input that provides further "
                "context. Write a response that appropriately completes the request.", ()),
               ask("Sort.\n\n3, 1"), reply("1, 3")),
        references=("1, 3",), breaks=((2, "output"), ..., "record 2: has no 'output'"),
    ),
    "dolly": Miniature(
        builder="instructions", settings={"format": "dolly"}, count=1, id="dolly.jsonl, line 1", references=("2000",),
        files={"dolly.jsonl": [{"instruction": "When?", "context": "Founded in 2000.", "response": "2000",
                                "category": "closed_qa"}]},
        details={"category": "closed_qa"}, first=(ask("When?\n\nFounded in 2000."), reply("2000")),
        breaks=((0, "instruction"), None, "line 1: 'instruction' is null, expected text"),
    ),
    "baize": Miniature(
        builder="instructions", settings={"format": "baize"}, count=1, id="quora_chat_data.json, record 0",
        files={"quora_chat_data": [{"topic": "t", "input": "The conversation between human and AI assistant.\n"
                                    "[|Human|] Hi"
                                    "\n[|AI|] Hello.\nHow are you?\n[|Human|] Fine.\n[|AI|] Good.\n[|Human|] "}]},
        first=(ask("Hi"), reply("Hello.\nHow are you?"), ask("Fine."), reply("Good.")), references=("Good.",),
        breaks=((0, "input"), "Human: Hi", "record 0: 'input' has no [|Human|] and [|AI|]"),
    ),
    "sharegpt": Miniature(
        builder="instructions", settings={"format": "sharegpt", "max_turns": 3}, count=1, id="QWJhYvA_0",
        files={"ShareGPT_V3": [{"id": "QWJhYvA_0", "conversations": [
            {"from": "gpt", "value": "Lost its question."}, {"from": "human", "value": "Hi"},
            {"from": "chatgpt", "value": "Hello"}, {"from": "human", "value": "More"}]}]},
        first=(ask("Hi"), reply("Hello")), references=("Hello",),
        breaks=((0, "image"), "a.jpg", "record 0: has image files; the builder `dialogues` takes them"),
    ),
}  # fmt: skip
