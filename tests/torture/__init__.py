"""Broken and odd files, to test a data path with: images, videos, audio, tars, annotations."""

from tests.torture.annotations import QUESTIONS, RECORDS
from tests.torture.archives import ARCHIVES
from tests.torture.audio import AUDIO_FILES
from tests.torture.images import IMAGES
from tests.torture.videos import VIDEOS

KINDS = {
    "images": IMAGES,
    "videos": VIDEOS,
    "audio": AUDIO_FILES,
    "archives": ARCHIVES,
    "questions": QUESTIONS,
    "records": RECORDS,
}
