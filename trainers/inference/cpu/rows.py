"""How many chunks a CPU embeds at once."""

ROWS, PLAIN_ROWS = 8, 4
"""Chunks at once that folded encoders and plain layers are fastest with. 8 against 4: Mel-CNN takes .93 of the time,
SampleCNN and TUNe+ .98. 4 against 64: the plain layers of TUNe+ take .45 of the time, of Mel-CNN .7, of SampleCNN the
same with a tenth of the memory."""
