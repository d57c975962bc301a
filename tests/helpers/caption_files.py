"""Miniatures of public files of captions of videos and sounds, field for field as they are published."""

from __future__ import annotations

from tests.helpers.miniature import Miniature, ask, reply

MSRVTT = {
    "info": {"year": "2016", "version": "1.0", "description": "", "contributor": "", "data_created": ""},
    "videos": [
        {"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": "video7010",
         "start time": 137.72, "end time": 149.44, "split": "test", "id": 7010},
        {"category": 16, "url": "https://www.youtube.com/watch?v=w4JM08PDEng", "video_id": "video7011",
         "start time": 0.0, "end time": 12.0, "split": "test", "id": 7011},
        {"category": 1, "url": "https://www.youtube.com/watch?v=x", "video_id": "video0", "start time": 0.0,
         "end time": 12.0, "split": "train", "id": 0}],
    "sentences": [
        {"caption": "a girl sings", "video_id": "video7011", "sen_id": 1},
        {"caption": "a man is cooking", "video_id": "video7010", "sen_id": 2},
        {"caption": "someone fries fish", "video_id": "video7010", "sen_id": 3},
        {"caption": "a car", "video_id": "video0", "sen_id": 4}],
}  # fmt: skip
JSFUSION = 'key,vid_key,video_id,sentence\nret0,msr7010,video7010,"a man, cooking"\n'
DESCRIPTIONS = (
    "# MSVD, released on 2012\n#\n\n-4wsuPCjDBc_5_15 a squirrel is eating a peanut in it's shell\n"
    "mv89psg6zh4_33_46 a bird in a sink\n-4wsuPCjDBc_5_15 a chipmunk is eating\n"
)
CORPUS = (
    "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    'mv89psg6zh4,33,46,588702,unverified,55,Slovene,"Papagaj se umiva."\n'
    'mv89psg6zh4,33,46,588703,unverified,55,English,"A bird, in a sink\nkeeps getting wet."\n'
    "mv89psg6zh4,33,46,362812,clean,11,English,A bird is bathing.\n-4wsuPCjDBc,5,15,1,clean,11,English,A squirrel.\n"
    "mv89psg6zh4,33,46,1,clean,11,English,\n"
)
CLOTHO = (
    "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
    'Santa Motor.wav,"A machine whines, then stops.",An idle motor.,A motor.,A saw.,A drill.\n'
    "Radio Garble.wav,Static.,Noise.,A radio.,A garbled voice.,Interference.\n"
)
AUDIOCAPS = (
    "audiocap_id,youtube_id,start_time,caption\n103549,7fmOlUlwoNg,20,Constant rattling noise and sharp vibrations\n"
    "103548,6BJ455B1aAs,0,A rocket flies by\n103545,7fmOlUlwoNg,20,Gusts of wind\n"
)
MOSEI = (
    ",file,index,start,end,label2a,label2b,label6,label7,split\n2,-3g5yACwYnA,1,119.919,125.299,1,0,0,0,0\n"
    "13,-6rXp3zJ3kc,0,14.468,22.882,0,-1,1,-2,2\n"
)
MMSA = (
    "video_id,clip_id,text,label,annotation,mode\n-3g5yACwYnA,13,Key is part of the people,1.0,Positive,train\n"
    '-6rXp3zJ3kc,2,"well, no",-0.6667,Negative,test\n'
)
SENTIMENT = "What is the sentiment of the speaker: positive, negative or neutral?"

CAPTION_FILES = {
    "coco_gt": Miniature(
        builder="captions", settings={"format": "coco_gt", "tag": "ti-cap"}, count=2, id="391895",
        files={"coco_karpathy_test_gt": {
            "annotations": [{"image_id": 391895, "caption": "A man on a bike.", "id": 0},
                            {"image_id": 391895, "caption": "A rider.", "id": 1},
                            {"image_id": 60623, "caption": "A girl.", "id": 2}],
            "images": [{"id": 391895}, {"id": 60623}]}},
        media=("val2014/COCO_val2014_000000391895.jpg",), references=("A man on a bike.", "A rider."),
        first=(ask("PROMPT", "val2014/COCO_val2014_000000391895.jpg"), reply("A rider.")),
        breaks=(("images", 1), {"id": 60623, "file_name": "a.jpg"},
                "images, record 1: has a 'file_name'; set format: coco"),
    ),
    "msrvtt": Miniature(
        builder="captions", settings={"format": "msrvtt", "tag": "tv-cap", "split": "test"}, count=2, id="video7010",
        files={"test_videodatainfo": MSRVTT}, media=("video7010.mp4",), details={"category": 9, "split": "test"},
        references=("a man is cooking", "someone fries fish"),
        first=(ask("PROMPT", "video7010.mp4"), reply("someone fries fish")),
        breaks=(("sentences", 1, "video_id"), "video9999",
                "sentences: the captions of video_id video9999 have no entry in 'videos'"),
    ),
    "msrvtt_1k": Miniature(
        builder="captions", settings={"format": "msrvtt", "tag": "tv-cap"}, count=1, id="video7010",
        files={"MSRVTT_data": MSRVTT, "ids.csv": JSFUSION}, media=("video7010.mp4",),
        references=("a man is cooking", "someone fries fish"),
        first=(ask("PROMPT", "video7010.mp4"), reply("someone fries fish")),
        breaks=(("videos", 0), {"video_id": "video1", "split": "test"},
                "ids.csv: 1 id has no captions here, the first is 'video7010'; the same release?"),
    ),
    "msvd": Miniature(
        builder="captions", settings={"format": "msvd", "tag": "tv-cap"}, count=1, id="-4wsuPCjDBc_5_15",
        files={"AllVideoDescriptions.txt": DESCRIPTIONS, "ids.txt": "-4wsuPCjDBc_5_15.avi\n\n"},
        media=("-4wsuPCjDBc_5_15.avi",), first=(ask("PROMPT", "-4wsuPCjDBc_5_15.avi"), reply("a chipmunk is eating")),
        references=("a squirrel is eating a peanut in it's shell", "a chipmunk is eating"),
        breaks=((), "-4wsuPCjDBc_5_15\n",
                "line 1: expected the name of a video and a sentence, got '-4wsuPCjDBc_5_15'"),
    ),
    "msvd_corpus": Miniature(
        builder="captions", settings={"format": "msvd", "tag": "tv-cap"}, count=2, id="mv89psg6zh4_33_46",
        files={"video_corpus.csv": CORPUS}, media=("mv89psg6zh4_33_46.avi",),
        first=(ask("PROMPT", "mv89psg6zh4_33_46.avi"), reply("A bird is bathing.")),
        references=("A bird, in a sink\nkeeps getting wet.", "A bird is bathing."),
        breaks=((), "VideoID,Start,End,Languag\n", "has no column 'Language'; its columns: 'VideoID', 'Start', 'End'"),
    ),
    "vatex": Miniature(
        builder="captions", settings={"format": "vatex", "tag": "tv-cap"}, count=1, id="Ptf_2VRj-V0_000122_000132",
        files={"vatex_public_test_english_v1.1": [
            {"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": ["A man climbs.", "Someone is up a tree."]}]},
        media=("Ptf_2VRj-V0_000122_000132.mp4",), references=("A man climbs.", "Someone is up a tree."),
        first=(ask("PROMPT", "Ptf_2VRj-V0_000122_000132.mp4"), reply("A man climbs.")),
        breaks=((0, "enCap", 1), {}, "record 0: 'enCap' holds an object, expected text"),
    ),
    "valor": Miniature(
        builder="captions", settings={"format": "caption_list", "tag": "tva-cap"}, count=1,
        id="x-2Abohj8VY_30.000_40.000", media=("x-2Abohj8VY_30.000_40.000.mp4",),
        files={"desc_test": [{"video_id": "x-2Abohj8VY_30.000_40.000", "desc": "With the rumble, a bus starts."}]},
        references=("With the rumble, a bus starts.",),
        first=(ask("PROMPT", *["x-2Abohj8VY_30.000_40.000.mp4"] * 2), reply("With the rumble, a bus starts.")),
        breaks=((0, "desc"), ..., "record 0: has no 'desc' or 'caption'"),
    ),
    "lavis_video": Miniature(
        builder="captions", settings={"format": "caption_list", "tag": "tv-cap"}, count=1, id="video7010.mp4",
        files={"cap_test": [{"video": "video7010.mp4", "caption": "a man"},
                            {"video": "video7010.mp4", "caption": "fish"}]},
        media=("video7010.mp4",), references=("a man", "fish"),
        first=(ask("PROMPT", "video7010.mp4"), reply("fish")),
        breaks=((1, "caption"), [7], "record 1: 'caption' holds the number 7, expected text"),
    ),
    "clotho": Miniature(
        builder="captions", settings={"format": "clotho", "tag": "ta-cap"}, count=2, id="Santa Motor.wav",
        files={"clotho_captions_evaluation.csv": CLOTHO}, media=("Santa Motor.wav",),
        references=("A machine whines, then stops.", "An idle motor.", "A motor.", "A saw.", "A drill."),
        first=(ask("PROMPT", "Santa Motor.wav"), reply("A saw.")),
        breaks=((), CLOTHO.replace(",A saw.,A drill.", ",A saw."), "line 2: has 5 cells, expected 6"),
    ),
    "audiocaps": Miniature(
        builder="captions", settings={"format": "audiocaps", "tag": "ta-cap"}, count=2, id="7fmOlUlwoNg",
        files={"test.csv": AUDIOCAPS}, media=("Y7fmOlUlwoNg_20000_30000.flac",), details={"start_time": 20},
        references=("Constant rattling noise and sharp vibrations", "Gusts of wind"),
        first=(ask("PROMPT", "Y7fmOlUlwoNg_20000_30000.flac"), reply("Gusts of wind")),
        breaks=((), AUDIOCAPS.replace("20,Gusts", "30,Gusts"),
                "line 4: the id 7fmOlUlwoNg has {'start_time': 30}, and {'start_time': 20} in line 2"),
    ),
    "mosei": Miniature(
        builder="questions", settings={"format": "mosei", "tag": "ta-qa", "split": "test"}, count=1,
        id="-6rXp3zJ3kc_0", files={"CMU_MOSEI_Labels.csv": MOSEI}, media=("-6rXp3zJ3kc_0.wav",),
        references=("negative",), details={"sentiment": -2.0, "split": "test"},
        first=(ask(SENTIMENT, "-6rXp3zJ3kc_0.wav"), reply("negative")),
        breaks=((), MOSEI.replace("-1,1,-2,2", "-1,1,-4,2"),
                "line 3: 'label7' is the text '-4', expected a number from -3"),
    ),
    "mosei_mmsa": Miniature(
        builder="questions", settings={"format": "mosei", "tag": "tva-qa", "split": "test"}, count=1,
        id="-6rXp3zJ3kc_2", files={"label.csv": MMSA}, media=("-6rXp3zJ3kc/2.mp4",), references=("negative",),
        details={"sentiment": -0.6667},
        first=(ask(f'The speaker says: "well, no"\n{SENTIMENT}', *["-6rXp3zJ3kc/2.mp4"] * 2), reply("negative")),
        breaks=((), MMSA.replace(",mode", ",split"), "line 2: has no 'mode'; its fields: 'video_id', 'clip_id'"),
    ),
    "mosei_list": Miniature(
        builder="questions", settings={"format": "mosei", "tag": "tv-qa", "subtitles": False}, count=1, id="a_1",
        files={"mosei_test": [{"video_id": "a_1", "subtitle": "so so", "sent": 0}]}, media=("a_1.mp4",),
        references=("neutral",), first=(ask(SENTIMENT, "a_1.mp4"), reply("neutral")),
        breaks=((0, "sent"), True, "record 0: 'sent' is true or false, expected a number from -3 to 3"),
    ),
    "lavis_video_qa": Miniature(
        builder="questions", settings={"format": "vqa", "tag": "tv-qa"}, count=1, id="37437",
        files={"qa_test": [{"video": "-4wsuPCjDBc_5_15.avi", "question": "what is eating?", "answer": "squirrel",
                            "question_id": 37437}]},
        media=("-4wsuPCjDBc_5_15.avi",), references=("squirrel",), details={"video": "-4wsuPCjDBc_5_15.avi"},
        first=(ask("what is eating?", "-4wsuPCjDBc_5_15.avi"), reply("squirrel")),
        breaks=((0, "video"), ["a"], "record 0: 'video' is a list, expected text"),
    ),
}  # fmt: skip
