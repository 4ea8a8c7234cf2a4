"""From a waveform to what an encoder reads."""
