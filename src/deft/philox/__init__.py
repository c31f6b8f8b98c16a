"""Random numbers that are a function of a key and a counter: the same on a CPU, on a GPU, alone and in a batch.

Philox4x64-10 of Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"
(https://doi.org/10.1145/2063384.2063405), then Box & Muller 1958, "A note on the generation of random normal deviates"
(https://doi.org/10.1214/aoms/1177706645). A stream has a key of two 64-bit words. Its block b = 0, 1, ... is Philox of
the counter (b + 1, 0, 0, 0): four 64-bit words, the next four of `numpy.random.Philox(key=key)`, or eight 32-bit words,
low halves first. In float32, of words w and w':

    uniform    u = floor(w / 2^8) / 2^24                                               0 <= u < 1
    normal     r = sqrt(-2 log((w + 1/2) / 2^32)),  a = pi w' / 2^31,  z = r cos a,  z' = r sin a

where w' is a signed number; |z| < 6.77. A draw begins with a new block. n normals take 2 ceil(n / 16) blocks, in pieces
of up to `PIECE` blocks of w and as many of w'. All z are the first of the n numbers, all z' the others.

The words and the uniform numbers are the same on every device, the normal ones to rounding. Three ways lead to them:

    deft.philox.by_numpy     NumPy's own generators, one a row, for the CPU
    deft.philox.by_triton    one kernel, for a GPU
    deft.philox.by_torch     operations of torch, for a GPU without Triton; what the other two are tested against
"""

from deft.philox.streams import Streams

__all__ = ["Streams"]
