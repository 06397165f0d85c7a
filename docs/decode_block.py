#!/usr/bin/env python3
"""Decodes millrace blocks of version 1 to JSON Lines: decode_block.py FILE... (needs: pip install zstandard)"""
import base64, json, math, struct, sys, time, zstandard

WEIGHTS = [0, 1, 2, 3, 4, 6, 10, 16, 25, 40, 64, 102, 161, 256, 406, 645]
KINDS = ["null", "decimal", "int64", "bool", "string", "raw"]


class Reader:
    def __init__(self, data): self.data, self.at = data, 0
    def take(self, n): self.at += n; return self.data[self.at - n:self.at]
    def byte(self): return self.take(1)[0]
    def uvarint(self):
        c = self.byte()
        return c & 127 | self.uvarint() << 7 if c > 127 else c


def unzigzag(z): return z >> 1 ^ -(z & 1)
def int64(x): return (x + 2**63) % 2**64 - 2**63


class Symbols:
    def __init__(self, tables, rest):  # tables: by class, a list of (symbol, frequency, first slot) by slot
        words = rest.uvarint()
        self.tables, self.x, self.y = tables, *struct.unpack("<II", rest.take(8))
        self.words, self.extra, self.bit = Reader(rest.take(2 * words)), rest.data[rest.at:], 0
    def one(self, cls):
        s, f, first = self.tables[cls][self.x & 1023]
        x = f * (self.x >> 10) + (self.x & 1023) - first
        self.x, self.y = self.y, x if x >= 65536 else x << 16 | struct.unpack("<H", self.words.take(2))[0]
        if s >= 16:
            n, at = (s - 16) // 4 + 2, self.bit
            low = int.from_bytes(self.extra[at // 8:(at + n + 7) // 8], "little") >> at % 8 & (1 << n) - 1
            self.bit, s = at + n, (2 | (s >> 1 & 1)) << n + 1 | low << 1 | s & 1
        return unzigzag(s)
    def ints(self, n, desc):
        cls, order, bias = desc & 31, desc >> 5 & 3, self.one(1) if n and desc >> 7 else 0
        out = [self.one(1) for _ in range(min(n, [0, 1, 2, 1][order]))]
        if len(out) == 2: out[1] = int64(out[0] + out[1])
        mean = out[0] << 4 if out else 0
        while len(out) < n:
            if order == 3 and len(out) > 1: mean += (out[-1] << 4) - mean >> 2
            guess = [0, out[-1], 2 * out[-1] - out[-2] if order == 2 else 0, mean + 8 >> 4][order] if out else 0
            out.append(int64(guess + bias + (self.one(cls) if cls else 0)))
        return out


def read_tables(meta):
    count, half = meta.byte(), []
    def nibble():
        if not half: b = meta.byte(); half.extend([b >> 4, b & 15])
        return half.pop()
    tables = [[]]
    for _ in range(count):
        last, i, table = nibble() | nibble() << 4, 0, []
        weights = [0] * 256
        while i <= last:
            weights[i] = WEIGHTS[nibble()]
            i += 1 if weights[i] else 1 + nibble()
        present = [s for s in range(256) if weights[s]]
        freq = {s: 1 + weights[s] * (1024 - len(present)) // sum(weights) for s in present}
        if present: freq[max(present, key=lambda s: weights[s])] += 1024 - sum(freq.values())
        for s in present: table += [(s, freq[s], len(table))] * freq[s]
        tables.append(table)
    return tables


def decode(data):
    crc = 0xFFFFFFFF
    for b in data[:-4]:
        crc ^= b
        for _ in range(8): crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    if data[:3] != b"MR\1" or crc ^ 0xFFFFFFFF != struct.unpack("<I", data[-4:])[0]: raise ValueError("not an intact block of version 1")
    r = Reader(data[3:-4])
    site, gateway, stream = (r.take(r.byte()) for _ in range(3))
    epoch, seq, count = r.take(8), r.uvarint(), r.uvarint()
    first, = struct.unpack("<q", r.take(8))
    length, produced, lost, boot, mono, clock = r.uvarint(), r.uvarint(), r.uvarint(), r.take(16), unzigzag(r.uvarint()), r.byte()
    size, packed = r.uvarint(), r.uvarint()
    meta = Reader(zstandard.decompress(r.take(packed)) if packed else r.take(size))
    sym = Symbols(read_tables(meta), r)
    tags, name = meta.uvarint(), b""
    shared, own, names = [meta.uvarint() for _ in range(tags)], [meta.uvarint() for _ in range(tags)], []
    for i in range(tags): name = name[:shared[i]] + meta.take(own[i]); names.append(name)
    texts = [meta.take(n) for n in [meta.uvarint() for _ in range(meta.uvarint())]]
    quality = [0] + [struct.unpack("<I", meta.take(4))[0] for _ in range(meta.uvarint())]
    shapes = [meta.take(n) for n in meta.take(meta.uvarint())]
    shape_ids, time_ids = meta.byte(), meta.byte()
    source_ids = meta.byte() if meta.byte() else None
    base, unit, ticks = first + unzigzag(meta.uvarint()), 10 ** meta.byte(), meta.uvarint()
    tick_desc = meta.byte() if ticks else 0
    shape_ids, time_ids = sym.ints(tags, shape_ids), sym.ints(tags, time_ids)
    source_ids = [0] * tags if source_ids is None else sym.ints(tags, source_ids)
    instant = lambda k: int64(base + k * unit)
    ticks = [instant(k) for k in sym.ints(ticks, tick_desc)]
    descs, times, sources = [meta.byte() for _ in range(max(time_ids, default=0))], [None], [None]

    def numbers(n, shape, slot):
        extra = shape.byte() if slot in (1, 2, 5) else 0
        if slot in (1, 2) and extra >> 7:
            values = sym.ints(sym.one(1), shape.byte())
            out = [values[x << 1 ^ x >> 63] for x in sym.ints(n, shape.byte())]
        else: out = sym.ints(n, shape.byte())
        if slot == 1: return [unscale(m, extra >> 4 & 7, extra & 15) for m in out]
        if slot == 3: return [x == 1 for x in out]
        if slot == 4: return [texts[x] for x in out]
        if slot == 5: return [struct.unpack("<d", struct.pack("<Q", ((x ^ x >> 63) << extra) % 2**63 | (x < 0) << 63))[0] for x in out]
        return out

    for tag in range(tags):
        if time_ids[tag] == len(times):
            n = sym.one(1)
            times.append([ticks[k] if ticks else instant(k) for k in sym.ints(n, descs[len(times) - 1])])
        at, shape = times[time_ids[tag]], Reader(shapes[shape_ids[tag]])
        n = len(at)
        if source_ids[tag] == len(sources):
            code, desc = meta.byte(), meta.byte()
            start = sym.one(1)
            sources.append([int64((first if code & 16 else t) + start + k * 10 ** (code & 15)) for t, k in zip(at, sym.ints(n, desc))])
        source = sources[source_ids[tag]] or [0] * n
        mask, flags = shape.byte(), shape.byte()
        slots = [k for k in range(6) if mask >> k & 1]
        which = sym.ints(n, shape.byte()) if len(slots) > 1 else slots * n
        values = {k: iter(numbers(which.count(k), shape, k) if k else [None] * n) for k in slots}
        codes = sym.ints(n, shape.byte()) if flags & 1 else [0] * n
        producers = [texts[k] for k in sym.ints(n, shape.byte())] if flags & 2 else [b""] * n
        seqs = [k % 2**64 for k in sym.ints(n, shape.byte())] if flags & 2 else [0] * n
        for i in range(n):
            yield names[tag], next(values[which[i]]), quality[codes[i]], at[i], source[i], producers[i], seqs[i]


def unscale(m, mode, places):
    if mode == 1: return m * float("1e-%d" % places)
    return struct.unpack("<f", struct.pack("<f", m / 10**places))[0] if mode == 2 else m / 10**places


def text(b):
    try: return b.decode()
    except UnicodeDecodeError: return {"base64": base64.b64encode(b).decode()}


def line(tag, value, quality, at, source, producer, seq):
    rfc3339 = lambda ns: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)
    if isinstance(value, float) and not math.isfinite(value):
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        value = {"float64": "NaN:%016x" % bits if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    out = {"tag": text(tag), "value": text(value) if isinstance(value, bytes) else value, "time": rfc3339(at)}
    if source: out["source_time"] = rfc3339(source)
    if quality: out["quality"] = quality
    if producer or seq: out.update(producer=text(producer), seq=seq)
    return json.dumps(out)


for path in sys.argv[1:]:
    for row in decode(open(path, "rb").read()): print(line(*row))
