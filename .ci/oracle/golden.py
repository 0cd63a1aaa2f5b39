"""Computes the golden vectors of `gpu/src/numerics/tests.rs` in exact rational arithmetic.

golden.py            prints them as the tests hold them

Every operation is done on fractions and rounded once, by this file's own rounding to f32, in the order
`numerics.md` gives. Nothing of the engine is used, so equal bits mean that both follow the definition.
Only cosine, sine and power come from the platform's f64 library. Decoded weights are checked against PyPI `gguf`.
"""

import math
import struct
from fractions import Fraction

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize


def rne(x, bits=24, least=-149):
    """`x`, a Fraction, rounded to nearest even as f32 (no overflow is expected)."""
    if x == 0:
        return Fraction(0)
    n, d = abs(x.numerator), x.denominator
    e = n.bit_length() - d.bit_length()
    e -= Fraction(n, d) < Fraction(2) ** e
    ulp = Fraction(2) ** max(e - bits + 1, least)
    q = abs(x) / ulp
    whole, rest = q.numerator // q.denominator, q - q.numerator // q.denominator
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2)
    return math.copysign(1, x.numerator).__int__() * whole * ulp


def root(x):
    """√x rounded to f32."""
    scaled = x * Fraction(4) ** 200
    s = Fraction(math.isqrt(scaled.numerator // scaled.denominator) * 2 + 1, 2 ** 201)  # never on a tie
    exact = Fraction(math.isqrt(scaled.numerator // scaled.denominator), 2 ** 200)
    return rne(exact if exact * exact == x else s)


def bits(x):
    return struct.unpack("<I", struct.pack("<f", float(x)))[0]


def of_bits(b):
    return Fraction(struct.unpack("<f", struct.pack("<I", b))[0])


def fma(a, b, c):
    return rne(a * b + c)


class Noise:
    """As `numerics/noise.rs`."""

    def __init__(self, seed):
        self.s = seed

    def bits(self):
        m = (1 << 64) - 1
        self.s = (self.s + 0x9E3779B97F4A7C15) & m
        z = ((self.s ^ self.s >> 30) * 0xBF58476D1CE4E5B9) & m
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & m
        return z ^ z >> 31

    def even(self):
        return Fraction((self.bits() >> 40) - (1 << 23), 1 << 22)

    def evens(self, n):
        return [self.even() for _ in range(n)]

    def half(self):
        return Fraction(float(np.float16(float(self.even()))))

    def loud(self, n):
        return [rne(rne(self.even() / 8) + 2) for _ in range(n)]

    def weights(self, kind, n, loud=False):
        """Blocks of 32 as (d · integers, minima of its halves), all exact, or plain values."""
        if kind == "F32":
            return self.evens(n)
        if kind == "F16":
            return [self.half() for _ in range(n)]
        if kind == "BF16":
            return [of_bits(bits(self.even()) & 0xFFFF0000) for _ in range(n)]
        size, scales, louder, decode = KINDS[kind]
        blocks = []
        for _ in range(n // (256 if size > 34 else 32)):
            raw = [self.bits() & 255 for _ in range(size)]
            if kind == "MXFP4":
                raw[0] = 112 + raw[0] % 16
            for first, end, keep, put in louder if loud else ():
                raw[first:end] = [b & keep | put for b in raw[first:end]]
            for at in scales:
                raw[at : at + 2] = np.float16(float(self.even() / 64)).tobytes()
            decoded = decode(raw)
            ours = [rne(w + (m[i // 16] if m else 0)) for ws, m in decoded for i, w in enumerate(ws)]
            theirs = dequantize(np.array(raw, np.uint8), GGMLQuantizationType[kind])
            assert [float(w) for w in ours] == theirs.tolist(), kind
            blocks += decoded
        return blocks


def half(raw, at):
    return Fraction(float(np.frombuffer(bytes(raw[at : at + 2]), np.float16)[0]))


def nibbles(raw):
    return [b & 15 for b in raw[:16]] + [b >> 4 for b in raw[:16]]


def bits5(raw):
    word = int.from_bytes(bytes(raw[:4]), "little")
    return [16 * (word >> i & 1) for i in range(32)]


def simple(integers, has_minimum):
    return lambda raw: [([half(raw, 0) * n for n in integers(raw)], [half(raw, 2)] * 2 if has_minimum else None)]


def five(low, high):
    return [a + b for a, b in zip(low, high)]


def super_blocks(quants, fifth):
    """Eight six-bit scales and minima: four whole, four of four bits with two more above the first."""

    def decode(raw):
        packed, blocks = raw[4:16], []
        for j in range(8):
            i = j % 4
            scale, low = (packed[i] & 63, packed[4 + i] & 63) if j < 4 else (packed[8 + i] & 15, packed[8 + i] >> 4)
            if j > 3:
                scale, low = scale + (packed[i] >> 6) * 16, low + (packed[4 + i] >> 6) * 16
            bytes32 = raw[quants + j // 2 * 32 :][:32]
            n = [b >> 4 if j % 2 else b & 15 for b in bytes32]
            if fifth:
                n = [n + (b >> j & 1) * 16 for n, b in zip(n, raw[16:48])]
            blocks.append(([half(raw, 0) * scale * n for n in n], [-half(raw, 2) * low] * 2))
        return blocks

    return decode


def six(raw):
    w = []
    for e in range(256):
        side, part, i = e // 128, e % 128 // 32, e % 32
        low = raw[64 * side + 32 * (part % 2) + i] >> (4 * (part // 2)) & 15
        high = raw[128 + 32 * side + i] >> (2 * part) & 3
        scale = raw[192 + e // 16]
        w.append(half(raw, 208) * (scale - 256 if scale > 127 else scale) * (low + 16 * high - 32))
    return [(w[at : at + 32], None) for at in range(0, 256, 32)]


def fields(raw, j):
    """Two bits of each element of sub-block `j`."""
    return [b >> (2 * (j % 4)) & 3 for b in raw[32 * (j // 4) :][:32]]


def scaled(d, scales, n):
    return [d * scales[i // 16] * v for i, v in enumerate(n)]


def two(raw):
    d, m = half(raw, 80), half(raw, 82)
    blocks = []
    for j in range(8):
        pair = raw[2 * j : 2 * j + 2]
        blocks.append((scaled(d, [b & 15 for b in pair], fields(raw[16:80], j)), [-m * (b >> 4) for b in pair]))
    return blocks


def three(raw):
    packed = raw[96:108]
    scales = [(packed[i % 8] >> (4 * (i // 8)) & 15) + 16 * (packed[8 + i % 4] >> (2 * (i // 4)) & 3) - 32 for i in range(16)]
    blocks = []
    for j in range(8):
        n = [low - (0 if top >> j & 1 else 4) for low, top in zip(fields(raw[32:96], j), raw[:32])]
        blocks.append((scaled(half(raw, 108), scales[2 * j : 2 * j + 2], n), None))
    return blocks


UNEVEN = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
E2M1 = [Fraction(n, 2) for n in (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)]


def uneven(raw):
    return [([half(raw, 0) * UNEVEN[n] for n in nibbles(raw[2:])], None)]


def uneven_super(raw):
    high, blocks = raw[2] + 256 * raw[3], []
    for j in range(8):
        scale = (raw[4 + j // 2] >> (4 * (j % 2)) & 15) + 16 * (high >> (2 * j) & 3) - 32
        blocks.append(([half(raw, 0) * scale * UNEVEN[n] for n in nibbles(raw[8 + 16 * j :])], None))
    return blocks


def powers(raw):
    return [([Fraction(2) ** (raw[0] - 127) * E2M1[n] for n in nibbles(raw[1:])], None)]


# Bytes of a stored block, where its f16 scales stand, what makes its codes large (from, to, and, or), decoding.
KINDS = {
    "Q4_0": (18, [0], [(2, 18, 0xFF, 0x88)], simple(lambda r: [n - 8 for n in nibbles(r[2:])], False)),
    "Q4_1": (20, [0, 2], [(4, 20, 0xFF, 0x88)], simple(lambda r: nibbles(r[4:]), True)),
    "Q5_0": (
        22, [0], [(2, 6, 0xFF, 0xFF), (6, 22, 0xFF, 0x88)],
        simple(lambda r: [n - 16 for n in five(nibbles(r[6:]), bits5(r[2:]))], False),
    ),
    "Q5_1": (
        24, [0, 2], [(4, 8, 0xFF, 0xFF), (8, 24, 0xFF, 0x88)],
        simple(lambda r: five(nibbles(r[8:]), bits5(r[4:])), True),
    ),
    "Q8_0": (34, [0], [(2, 34, 0x7F, 0x40)], simple(lambda r: [b - 256 if b > 127 else b for b in r[2:]], False)),
    "Q2_K": (84, [80, 82], [(0, 16, 0xFF, 0x88), (16, 80, 0xFF, 0xAA)], two),
    "Q3_K": (110, [108], [(0, 32, 0, 0), (32, 96, 0x55, 0), (104, 108, 0, 0)], three),
    "Q4_K": (144, [0, 2], [(16, 144, 0xFF, 0x88)], super_blocks(16, False)),
    "Q5_K": (176, [0, 2], [(16, 48, 0xFF, 0xFF), (48, 176, 0xFF, 0x88)], super_blocks(48, True)),
    "Q6_K": (210, [208], [(128, 192, 0xFF, 0xFF), (192, 208, 0x7F, 0x40)], six),
    "IQ4_NL": (18, [0], [(2, 18, 0xFF, 0x88)], uneven),
    "IQ4_XS": (136, [0], [(2, 4, 0xFF, 0xFF), (8, 136, 0xFF, 0x88)], uneven_super),
    "MXFP4": (17, [], [(1, 17, 0x77, 0x44)], powers),
}


def exp(x):
    if x < -87:
        return Fraction(0)
    if x > 88:
        return of_bits(0x7EF882B7)
    t = fma(x, of_bits(0x3FB8AA3B), Fraction(12582912))
    n = rne(t - 12582912)
    r = fma(n, -of_bits(0x3F317200), x)
    r = fma(n, -of_bits(0x35BFBE8E), r)
    p = of_bits(0x39506967)
    for c in (0x3AB743CE, 0x3C088908, 0x3D2AA9C1, 0x3E2AAAAA, 0x3F000000):
        p = fma(p, r, of_bits(c))
    return rne(rne(1 + fma(rne(r * r), p, r)) * Fraction(2) ** int(n))


def silu(x):
    return rne(x / rne(1 + exp(-x)))


def gelu(x):
    inner = fma(rne(x * x), rne(Fraction("0.044715")), Fraction(1))
    return rne(x / rne(1 + exp(rne(-of_bits(0x3FCC422A) * rne(x * inner)))))


def tree(lanes):
    half = 128
    while half:
        lanes = [rne(a + b) for a, b in zip(lanes[:half], lanes[half:])]
        half //= 2
    return lanes[0]


def rms_norm(x, w, eps):
    lanes = [Fraction(0)] * 256
    for i, v in enumerate(x):
        lanes[i % 256] = fma(v, v, lanes[i % 256])
    inverse = rne(1 / root(rne(rne(tree(lanes) / len(x)) + eps)))
    return [rne(rne(v * inverse) * g) for v, g in zip(x, w)]


def quantize(x):
    out = []
    for at in range(0, len(x), 32):
        amax = max(abs(v) for v in x[at : at + 32])
        inverse = rne(127 / amax)
        q = [round(rne(v * inverse)) for v in x[at : at + 32]]  # Python rounds halves to even
        out.append((rne(amax / 127), q))
    return out


def segments(terms, per):
    """`terms` are functions p → p."""
    tot = Fraction(0)
    for at in range(0, len(terms), per):
        p = Fraction(0)
        for term in terms[at : at + per]:
            p = term(p)
        tot = rne(tot + p)
    return tot


def dot(kind, w, x):
    if kind in ("F32", "F16", "BF16"):
        return segments([lambda p, a=a, b=b: fma(a, b, p) for a, b in zip(w, x)], 256)
    terms = []
    for (ws, m), (dx, xq) in zip(w, quantize(x)):
        f = sum(a * b for a, b in zip(ws, xq))
        h = m and sum(a * Fraction(sum(xq[at : at + 16])) for a, at in zip(m, (0, 16)))
        u = rne(f) if m is None else rne(f + rne(h))
        terms.append(lambda p, dx=dx, u=u: fma(dx, u, p))
    return segments(terms, 8)


def attend(query, keys, values, first, count):
    """Over the positions first … count − 1."""
    dims, chain = len(query), None
    for base in range(first // 256 * 256, count, 256):
        start, end = max(base, first), min(base + 256, count)
        s = [segments([lambda p, a=a, b=b: fma(a, b, p) for a, b in zip(query, k)], 32) for k in keys[start:end]]
        top = max(s)
        w = [exp(rne(v - top)) for v in s]
        # Empty lanes before the first position: segments and the tree lie where they do without a window.
        w = [Fraction(0)] * (start - base) + w + [Fraction(0)] * (base + 256 - end)
        o = [segments([lambda p, a=a, v=v, d=d: fma(a, v[d], p) for a, v in zip(w, values[base:end])], 32) for d in range(dims)]
        total = tree(w)
        if chain is None:
            chain = top, total, o
            continue
        new = max(top, chain[0])
        a, b = exp(rne(chain[0] - new)), exp(rne(top - new))
        chain = new, fma(chain[1], a, rne(total * b)), [fma(x, a, rne(y * b)) for x, y in zip(chain[2], o)]
    return [rne(v / chain[1]) for v in chain[2]]


def show(name, values):
    words = [f"0x{b >> 16:04x}_{b & 0xFFFF:04x}" for b in map(bits, values)]
    print(f"{name} ({len(words)}):")
    for at in range(0, len(words), 8):
        print("    " + ", ".join(words[at : at + 8]) + ",")


def main():
    points = [of_bits(b) for b in (0, 0x3F800000, 0xBF800000, 0x42B00000, 0xC2AE0000, 0x33000000, 0x41234567, 0xC0987654)]
    show("exp", [exp(x) for x in points])
    show("silu", [silu(x) for x in points])
    show("gelu", [gelu(x) for x in points])
    noise = Noise(1)
    x, w = noise.evens(300), noise.evens(300)
    show("rms_norm, every 40th", rms_norm(x, w, rne(Fraction(1, 100000)))[::40])
    base, dims, position = 100000.0, 64, 777
    angles = [position * base ** (-2 * i / dims) for i in (0, 1, 7, 31)]
    show("rope", [Fraction(f(a)).limit_denominator(2**80) for a in angles for f in (math.cos, math.sin)])
    x = Noise(2).evens(64)
    (d0, q0), (d1, q1) = quantize(x)
    show("scales", [d0, d1])
    print("q, every 4th:", (q0 + q1)[::4])
    for kind in ("F32", "F16", "BF16", *KINDS):
        noise, n = Noise(3), 512 if KINDS.get(kind, (0,))[0] > 34 else 320
        x = noise.evens(n)
        show(f"dot {kind}", [dot(kind, noise.weights(kind, n), x) for _ in range(4)])
    for kind in KINDS:
        noise, n = Noise(5), 512 if KINDS.get(kind, (0,))[0] > 34 else 320
        x = noise.loud(n)
        show(f"loud dot {kind}", [dot(kind, noise.weights(kind, n, True), x) for _ in range(4)])
    noise = Noise(4)
    query = noise.evens(40)
    keys = [[noise.half() for _ in range(40)] for _ in range(300)]
    values = [[noise.half() for _ in range(40)] for _ in range(300)]
    for first, count in ((0, 1), (0, 256), (0, 300), (45, 300), (261, 300)):
        show(f"attend {first}..{count}, every 5th dim", attend(query, keys, values, first, count)[::5])


if __name__ == "__main__":
    main()
