"""Broken and odd files, to try a data path on: pictures, clips, sounds, tars, annotations."""

from dataset_prep.torture.annotations import QUESTIONS, RECORDS
from dataset_prep.torture.archives import ARCHIVES
from dataset_prep.torture.clips import CLIPS
from dataset_prep.torture.pictures import PICTURES
from dataset_prep.torture.sounds import SOUNDS

KINDS = {
    "pictures": PICTURES,
    "clips": CLIPS,
    "sounds": SOUNDS,
    "archives": ARCHIVES,
    "questions": QUESTIONS,
    "records": RECORDS,
}
