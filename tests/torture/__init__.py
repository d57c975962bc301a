"""Broken and odd files, to try a data path on: pictures, clips, sounds, tars, annotations."""

from tests.torture.annotations import QUESTIONS, RECORDS
from tests.torture.archives import ARCHIVES
from tests.torture.clips import CLIPS
from tests.torture.pictures import PICTURES
from tests.torture.sounds import SOUNDS

KINDS = {
    "pictures": PICTURES,
    "clips": CLIPS,
    "sounds": SOUNDS,
    "archives": ARCHIVES,
    "questions": QUESTIONS,
    "records": RECORDS,
}
