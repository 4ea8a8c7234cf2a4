"""SampleCNN without gradients on a CPU.

Shape suffixes: N rows, T samples, L frames, C channels, E encoder width; k rows and p places of a piece.
"""

import torch
from torch import Tensor

from trainers.encoders.sample_cnn import SampleCnn
from trainers.inference.cpu.folding import Branches, constant, fold
from trainers.inference.cpu.winograd import Frames, WinogradConv, empty_frames, end_through, folded, pool_through


class FoldedSampleCnn:
    """The same embeddings up to rounding; the stem is computed piece by piece where its first block needs it.

    Args:
        network: whose stem and blocks are read.
        branches: what follows them, blocks and the last convolution; a space each. None where it is the network's.
        dtype: of the waves.
    """

    def __init__(self, network: SampleCnn, branches: Branches | None, dtype: torch.dtype) -> None:
        kernel_C13, bias_C = fold(network.stem)
        self.map_4C = constant(torch.cat([kernel_C13[:, 0].mT, bias_C[None]]), dtype)
        self.blocks = folded(network.blocks, dtype)
        ends = branches or [[network.last]]  # an encoder with branches has no last convolution of its own
        self.ends = [folded(end, dtype) for end in ends]

    def __call__(self, wave_NT: Tensor) -> Tensor:
        """Embed waves (N, T) as (N, E)."""
        first, *others = self.blocks
        frames = pool_through(others, self._first(wave_NT, first))
        return end_through(self.ends, frames)

    def _first(self, wave_NT: Tensor, block: WinogradConv) -> Frames:
        """Stem and first block."""
        rows, length = len(wave_NT), wave_NT.shape[1] // 3
        places = length // 3
        out = empty_frames(rows, places, block.width, wave_NT)
        # A column of ones brings the bias along; where it is zero there is no frame, and the stem gives zeros.
        samples_NL4 = wave_NT.new_zeros(rows, 3 * (places + 2), 4)
        frames = min(length, 3 * places + 1)
        samples_NL4[:, 3 : 3 + frames, :3] = wave_NT[:, : 3 * frames].view(rows, frames, 3)
        samples_NL4[:, 3 : 3 + frames, 3] = 1
        found, scratch = block.pieces(1, places)
        room_3RC = wave_NT.new_empty(3, max(count for _, _, count in found) + 2, self.map_4C.shape[1])
        for row in range(rows):
            for _, first, count in found:
                stem_3RC = room_3RC[:, : count + 2]
                for plane, to_RC in enumerate(stem_3RC):
                    taps_R4 = samples_NL4[row, 3 * first + plane : 3 * (first + count + 2) : 3]
                    torch.mm(taps_R4, self.map_4C, out=to_RC).relu_()
                block.pool_piece(stem_3RC[None], out.planes_N3RC[row : row + 1, :, 1 + first // 3 :], scratch)
        return out
