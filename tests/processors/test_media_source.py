"""What decoders raise, as a reason that names the file."""

from __future__ import annotations

import av.error
import pytest

from chatbridge.common.errors import MediaError
from chatbridge.processors.media_source import reasons


def test_sizes_of_a_damaged_file_are_its_fault_and_a_full_memory_is_not() -> None:
    """Fails when a damaged header that states a huge size ends a run, or a machine without memory loses samples."""
    message = r"clip.mp4: not a readable video \(its header asks for more memory than there is"
    with pytest.raises(MediaError, match=message), reasons("clip.mp4", "video"):
        av.error.err_check(-12)  # ENOMEM, as FFmpeg gives it
    with pytest.raises(MemoryError), reasons("clip.mp4", "video"):
        raise MemoryError
