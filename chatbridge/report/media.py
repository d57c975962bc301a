"""Media as parts of a page: files in base64, audio also as the log-mel spectrogram that an encoder reads."""

from __future__ import annotations

import base64
import html
import io
import mimetypes
from pathlib import Path

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.conversation.modalities import MODALITIES, PLAYED
from chatbridge.processors.audio import AudioProcessor
from chatbridge.processors.container_file import open_container
from chatbridge.processors.image_file import is_image

LARGEST = 3_000_000  # bytes of a file that is put into the page
MEL_BINS = 64
SHOWN = tuple(one.name for one in PLAYED)  # modalities with an HTML element


def embedded(modality: str, path: Path | bytes) -> str:
    """HTML that shows an image, a video or audio; audio comes with its log-mel spectrogram. Files of other
    modalities are shown if they are images, and named if not.

    A file that is too large, missing, or not of its modality is named instead of shown: the run may come from another
    person, its settings can name any file of this machine, and pages are passed on.
    """
    if isinstance(path, bytes):
        return _embedded_content(modality, path)
    name = html.escape(path.name)
    if not path.is_file():
        return f'<p class="quiet">{name} does not exist any more</p>'
    if path.stat().st_size > LARGEST:
        return f'<p class="quiet">{name} is too large for this page</p>'
    if modality not in SHOWN:
        if is_image(path):
            modality = "image"
        else:
            return f'<p class="quiet">{name}: {html.escape(MODALITIES.noun(modality))}, which this page cannot show</p>'
    if not is_media(modality, path):
        return f'<p class="quiet">{name} is not a readable {modality} file</p>'
    if modality == "image":
        return f'<img src="{data_url(path)}" alt="{name}" loading="lazy">'
    if modality == "video":
        return f'<video src="{data_url(path)}" controls loop playsinline preload="metadata"></video>'
    return f'{mel_image(path)}<audio src="{data_url(path)}" controls preload="metadata"></audio>'


def _embedded_content(modality: str, content: bytes) -> str:
    """The same for a file inside a data file, where images are shown."""
    if modality != "image" or not is_image(content) or len(content) > LARGEST:
        what = "is too large for this page" if len(content) > LARGEST else "cannot be shown from inside its data file"
        return f'<p class="quiet">{html.escape(MODALITIES.noun(modality))} {what}</p>'
    # browsers look at the content; this page loads images from data: addresses only
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return f'<img src="{url}" alt="{len(content):,} bytes" loading="lazy">'


def is_media(modality: str, path: Path) -> bool:
    """Whether the content of a file is of this modality; the file name does not count."""
    if modality == "image":
        return is_image(path)
    try:
        if modality == "audio":
            AudioProcessor().waveform(path)
            return True
        with open_container(path) as container:
            return bool(container.streams.video)
    except (MediaError, ValueError, OSError):
        return False


def data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def mel_image(path: Path) -> str:
    """HTML of the log-mel spectrogram of an audio file or of a video's audio track: time to the right, low frequencies
    at the bottom."""
    try:
        reader = AudioProcessor(mel_bins=MEL_BINS)
        features = reader.features(reader.waveform(path)).numpy().T[::-1]  # [mel, frames], high frequencies first
    except (MediaError, ValueError, OSError) as error:
        return f'<p class="quiet">no spectrogram: {html.escape(str(error))}</p>'
    return (
        f'<img class="mel" src="{_png(features)}" alt="log-mel spectrogram of {html.escape(path.name)}" loading="lazy">'
    )


def _png(values: np.ndarray) -> str:
    """A data URL of a PNG in matplotlib's magma colors, scaled to the lowest and highest value.

    values   float[H, W]
    """
    from matplotlib import colormaps
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    shades = (values - low) / ((high - low) or 1.0)
    pixels = (colormaps["magma"](shades)[..., :3] * 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).quantize(128).save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
