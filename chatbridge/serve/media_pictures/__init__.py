"""Media as pictures for people: frames, waveforms, what an encoder reads."""
