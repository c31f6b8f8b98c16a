"""Random numbers that are a function of a key and a counter: the same on a CPU, on a GPU, alone and in a batch.

Philox4x64-10 of Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"
(https://doi.org/10.1145/2063384.2063405), then Box & Muller 1958, "A note on the generation of random normal deviates"
(https://doi.org/10.1214/aoms/1177706645). A stream has a key of two 64-bit words. Its block b = 0, 1, ... is Philox of
the counter (b + 1, 0, 0, 0): four 64-bit words, the next four of `numpy.random.Philox(key=key)`, or eight 32-bit words
w, or sixteen 16-bit words v, low parts first. In float32:

    uniform    floor(w / 2^8) / 2^24                                                   from 0 to 1 - 2^-24
    normal     u = (w + 1/2) / 2^32,  r = sqrt(-2 log u),  a = 2 pi (v + u) / 2^16,  z = r cos a,  z' = r sin a

where v is a signed number; |z| < 6.77. A pair takes 48 bits, as PyTorch's own do. u moves the 2^16 angles within their
distance from each other, so that numbers near 0 are no multiples of anything. At any u the angles are evenly spaced on
the circle, so that all moments E[z^i z'^j] with i + j < 2^16 are those of independent normal numbers.

A draw begins with a new block. n normal numbers take 3 ceil(n / 32) blocks, in pieces: 2 m blocks of w, then m of v, m
up to `PIECE`. All z are the first of the n numbers, all z' the others.

The words and the uniform numbers are the same on every device, the normal ones to rounding. Three ways lead to them:

    deft.philox.by_numpy     NumPy's own generators, one a row, for the CPU
    deft.philox.by_triton    one kernel, for a GPU
    deft.philox.by_torch     operations of torch, for a GPU without Triton; what the other two are tested against
"""

from deft.philox.streams import Streams

__all__ = ["Streams"]
