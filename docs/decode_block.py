#!/usr/bin/env python3
"""Decodes millrace blocks of versions 1 and 2 to JSON Lines: decode_block.py FILE...  Needs: pip install zstandard

docs/block-format.md says what it does. decode and what it calls are the decoder; the rest writes JSON."""
import base64, io, json, math, struct, sys, time, zstandard

WEIGHTS = [0, 1, 2, 3, 4, 6, 10, 16, 25, 40, 64, 102, 161, 256, 406, 645]

def uint(r, n=1): return int.from_bytes(r.read(n), "little")
def unzigzag(z): return z >> 1 ^ -(z & 1)
def int64(x): return (x + 2**63) % 2**64 - 2**63
def uvarint(r):
    c = uint(r)
    return c & 127 | uvarint(r) << 7 if c > 127 else c

def read_tables(r):  # by class, one (symbol, frequency, first slot) for each of 1024 slots
    tables, half = [[]], []
    def nibble():
        if not half: c = uint(r); half.extend([c >> 4, c & 15])
        return half.pop()
    for _ in range(uint(r)):
        last, i, w = nibble() | nibble() << 4, 0, {}
        while i <= last:
            n = nibble()
            if n: w[i] = WEIGHTS[n]
            i += 1 if n else 1 + nibble()
        f = {s: 1 + w[s] * (1024 - len(w)) // sum(w.values()) for s in w}
        if f: f[max(w, key=w.get)] += 1024 - sum(f.values())
        tables.append([])
        for s in f: tables[-1] += [(s, f[s], len(tables[-1]))] * f[s]
    return tables

class Symbols:
    def __init__(self, r, tables):
        n = uvarint(r)
        self.tables, self.x, self.y, self.words, self.extra, self.bit = tables, uint(r, 4), uint(r, 4), io.BytesIO(r.read(2 * n)), r.read(), 0
    def one(self, cls=1):
        s, f, first = self.tables[cls][self.x % 1024]
        x = f * (self.x >> 10) + self.x % 1024 - first
        self.x, self.y = self.y, x if x >> 16 else x << 16 | uint(self.words, 2)
        if s < 16: return unzigzag(s)
        n, at = (s - 16) // 4 + 2, self.bit
        low = int.from_bytes(self.extra[at // 8:(at + n + 7) // 8], "little") >> at % 8 & (1 << n) - 1
        self.bit = at + n
        return unzigzag((2 | s >> 1 & 1) << n + 1 | low << 1 | s & 1)
    def ints(self, n, desc):
        cls, order, bias = desc % 32, desc >> 5 & 3, self.one() if n and desc > 127 else 0
        x = [self.one() for _ in range(min(n, (0, 1, 2, 1)[order]))]
        if len(x) == 2: x[1] = int64(x[0] + x[1])
        mean = x[0] << 4 if order == 3 and n else 0
        for i in range(len(x), n):
            guess = 0 if order == 0 else x[-1] if order == 1 else 2 * x[-1] - x[-2] if order == 2 else mean + 8 >> 4
            x.append(int64(guess + bias + (self.one(cls) if cls else 0)))
            mean += (x[-1] << 4) - mean >> 2
        return x

def decode(data):
    if data[:3] not in (b"MR\1", b"MR\2") or crc32c(data[:-4]) != struct.unpack("<I", data[-4:])[0]: raise ValueError("no intact block of version 1 or 2")
    r = io.BytesIO(data[3:-4])
    site, gateway, stream, epoch, seq, count = r.read(uint(r)), r.read(uint(r)), r.read(uint(r)), uint(r, 8), uvarint(r), uvarint(r)
    first, length, produced, lost, boot, mono, clock = int64(uint(r, 8)), uvarint(r), uvarint(r), uvarint(r), r.read(16), uvarint(r), uint(r)
    if data[2] == 2:
        thinned, replaced = uvarint(r), uvarint(r)  # the block stands for the sequences replaces to replaces + replaced - 1
        replaces = uvarint(r) if replaced else 0
    size, packed = uvarint(r), uvarint(r)
    m = io.BytesIO(zstandard.decompress(r.read(packed)) if packed else r.read(size))
    sym, name, names = Symbols(r, read_tables(m)), b"", []
    tags = uvarint(m)
    shared, own = [uvarint(m) for _ in range(tags)], [uvarint(m) for _ in range(tags)]
    for a, b in zip(shared, own): name = name[:a] + m.read(b); names.append(name)
    texts = [m.read(n) for n in [uvarint(m) for _ in range(uvarint(m))]]
    codes = [0] + [uint(m, 4) for _ in range(uvarint(m))]
    shapes = [m.read(n) for n in m.read(uvarint(m))]
    shape_desc, time_desc, source_desc = uint(m), uint(m), uint(m) and uint(m)
    base, unit, ticks = first + unzigzag(uvarint(m)), 10 ** uint(m), uvarint(m)
    tick_desc = uint(m) if ticks else 0
    shape_ids, time_ids, source_ids = (sym.ints(tags, d) for d in (shape_desc, time_desc, source_desc))
    ticks = [int64(base + k * unit) for k in sym.ints(ticks, tick_desc)]
    times, sources, descs = [[]], [[]], m.read(max(time_ids, default=0))
    def values(n, s, slot):
        extra = uint(s) if slot in (1, 2, 5) else 0
        if slot == 0: return [None] * n
        if slot < 3 and extra > 127:
            distinct = sym.ints(sym.one(), uint(s))
            x = [distinct[k << 1 ^ k >> 63] for k in sym.ints(n, uint(s))]
        else: x = sym.ints(n, uint(s))
        if slot == 1: return [unscale(k, extra >> 4 & 7, extra & 15) for k in x]
        if slot == 5: return [convert("<Q", ((k ^ k >> 63) << extra) % 2**63 | (k < 0) << 63, "<d") for k in x]
        return x if slot == 2 else [k == 1 for k in x] if slot == 3 else [texts[k] for k in x]
    for name, shape, time_id, source_id in zip(names, shape_ids, time_ids, source_ids):
        if time_id == len(times): times.append([ticks[k] if ticks else int64(base + k * unit) for k in sym.ints(sym.one(), descs[time_id - 1])])
        at, s = times[time_id], io.BytesIO(shapes[shape])
        if source_id == len(sources):
            code, desc, start = uint(m), uint(m), sym.one()
            sources.append([int64((first if code & 16 else t) + start + k * 10 ** (code & 15)) for t, k in zip(at, sym.ints(len(at), desc))])
        n, mask, flags = len(at), uint(s), uint(s)
        slots = [k for k in range(6) if mask >> k & 1]
        which = sym.ints(n, uint(s)) if len(slots) > 1 else slots * n
        parts = {k: iter(values(which.count(k), s, k)) for k in slots}
        quality = [codes[k] for k in sym.ints(n, uint(s))] if flags & 1 else [0] * n
        producers = [texts[k] for k in sym.ints(n, uint(s))] if flags & 2 else [b""] * n
        seqs = [k % 2**64 for k in sym.ints(n, uint(s))] if flags & 2 else [0] * n
        for row in zip(at, sources[source_id] or [0] * n, [next(parts[k]) for k in which], quality, producers, seqs): yield name, *row

def convert(a, x, b): return struct.unpack(b, struct.pack(a, x))[0]
def unscale(k, mode, places):
    if mode == 1: return k * float("1e-%d" % places)
    return convert("<f", k / 10**places, "<f") if mode == 2 else k / 10**places

def crc32c(data, crc=0xFFFFFFFF):
    for b in data:
        crc ^= b
        for _ in range(8): crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF

def rfc3339(ns): return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)
def plain(v):  # a value or a text as JSON has it
    if isinstance(v, float) and not math.isfinite(v):
        return {"float64": "NaN:%016x" % convert("<d", v, "<Q") if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"}
    try: return v.decode() if isinstance(v, bytes) else v
    except UnicodeDecodeError: return {"base64": base64.b64encode(v).decode()}
def line(tag, at, source, value, quality, producer, seq):
    out = {"tag": plain(tag), "value": plain(value), "time": rfc3339(at)}
    if source: out["source_time"] = rfc3339(source)
    if quality: out["quality"] = quality
    if producer or seq: out.update(producer=plain(producer), seq=seq)
    return json.dumps(out)

for path in sys.argv[1:]:
    for row in decode(open(path, "rb").read()): print(line(*row))
