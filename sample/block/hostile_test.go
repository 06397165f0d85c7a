package block

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"millrace/sample"
)

// reseal puts the right CRC under a block's bytes.
func reseal(data []byte) []byte {
	body := data[:len(data)-crcSize]
	return binary.LittleEndian.AppendUint32(body[:len(body):len(body)], crc32.Checksum(body, castagnoli))
}

// bare stores a block's names and shapes without zstd, so that changing a byte
// there changes what it says.
func bare(t testing.TB, data []byte) []byte {
	t.Helper()
	body := data[:len(data)-crcSize]
	_, rest, err := parseHeader(body)
	if err != nil {
		t.Fatal(err)
	}
	head := body[:len(body)-len(rest)]
	r := reader{b: rest}
	size, packed := r.uvarint(), r.uvarint()
	if packed == 0 {
		return data
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	meta, err := z.DecodeAll(r.take(int(packed)), nil)
	if err != nil || uint64(len(meta)) != size {
		t.Fatal(err)
	}
	out := binary.AppendUvarint(append([]byte(nil), head...), size)
	out = append(append(append(out, 0), meta...), r.b...)
	return reseal(append(out, 0, 0, 0, 0))
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// isOurs reports whether an error is one of those that Decode promises.
func isOurs(err error) bool { return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) }

func TestAlteredBytesAreNoticed(t *testing.T) {
	e, d := newCodec(t)
	for _, v := range vectors() {
		data := pack(t, e, v.tags, v.rows, v.h)
		for i := range data {
			bad := append([]byte(nil), data...)
			bad[i] ^= 1 << (i % 8)
			_, err := d.Decode(bad)
			if !isOurs(err) || !isOurs(Verify(bad)) {
				t.Fatalf("%s: byte %d altered: %v", v.name, i, err)
			}
			if _, err := ReadHeader(bad); !isOurs(err) {
				t.Fatalf("%s: byte %d altered: the header is read: %v", v.name, i, err)
			}
			if _, err := d.Decode(data[:i]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: cut to %d bytes: %v", v.name, i, err)
			}
		}
		if _, err := d.Decode(append(data[:len(data):len(data)], 0)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s: a byte more: %v", v.name, err)
		}
	}
}

func TestAnotherVersion(t *testing.T) {
	e, d := newCodec(t)
	data := pack(t, e, nil, nil, Header{})
	data[2] = versionThinned + 1
	data = reseal(data)
	if _, err := d.Decode(data); !errors.Is(err, ErrVersion) {
		t.Errorf("a block of the next version gives %v", err)
	}
	if err := Verify(data); !errors.Is(err, ErrVersion) {
		t.Errorf("a block of the next version is verified with %v", err)
	}
}

// Bytes that were changed and given a right CRC are what an attacker sends.
func TestHostileBytesGiveAnErrorAndTakeLittle(t *testing.T) {
	e, d := newCodec(t)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 3))
	refused := 0
	for _, v := range vectors() {
		good := bare(t, pack(t, e, v.tags, v.rows, v.h))
		if b, err := d.Decode(good); err != nil {
			t.Fatalf("%s without zstd: %v", v.name, err)
		} else {
			compare(t, v.name, b, byTag(v.tags, v.rows))
		}
		for range 1500 {
			bad := append([]byte(nil), good...)
			for range 1 + r.IntN(3) {
				at := 3 + r.IntN(len(bad)-3-crcSize)
				switch r.IntN(4) {
				case 0:
					bad[at] = byte(r.Uint32())
				case 1:
					bad[at] ^= 1 << r.IntN(8)
				case 2:
					bad[at] = 0xFF
				case 3:
					bad = append(bad[:at], bad[min(at+1+r.IntN(4), len(bad)-crcSize):]...)
				}
			}
			_, err := d.Decode(reseal(bad))
			if err != nil {
				refused++
				if !isOurs(err) {
					t.Fatalf("seed %d, %s: %v", seed, v.name, err)
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d altered blocks are refused: the test alters nothing that matters", refused)
	}
}

// maxForKilobyte bounds what a block of a kilobyte may make a decoder allocate.
const maxForKilobyte = 60 << 20

func TestASmallBlockCannotTakeMuchMemory(t *testing.T) {
	e, _ := newCodec(t)
	tags := []string{"a/b/c"}
	e.Reset(tags)
	for i := range MaxSamples {
		s := sample.Sample{
			Time: 1767225600e9 + int64(i)*1e9, SourceTime: 1767225600e9 + int64(i)*1e9, Value: sample.StringValue("on"),
			Quality: sample.Bad, Producer: "p", Seq: uint64(i),
		}
		e.Add(0, &s)
	}
	full, err := e.Encode(nil, Header{})
	if err != nil {
		t.Fatal(err)
	}
	if len(full) > 1<<10 {
		t.Fatalf("the full block takes %d bytes, the test wants a small one", len(full))
	}
	for name, data := range map[string][]byte{"full": full, "claims more": inflate(t, full)} {
		_, d := newCodec(t)
		var err error
		n := allocated(func() { _, err = d.Decode(data) })
		if n > maxForKilobyte {
			t.Errorf("%s: %d bytes make a decoder allocate %d MB", name, len(data), n>>20)
		}
		t.Logf("%s: %d bytes, %d MB allocated, %v", name, len(data), n>>20, err)
	}
}

// inflate replaces the names of a block by a zstd bomb: empty strings, as many
// as the ratio allows, with the full block's count of samples.
func inflate(t *testing.T, data []byte) []byte {
	t.Helper()
	body := data[:len(data)-crcSize]
	_, rest, err := parseHeader(body)
	if err != nil {
		t.Fatal(err)
	}
	meta := []byte{0} // no tables
	meta = binary.AppendUvarint(meta, 0)
	meta = binary.AppendUvarint(meta, 2*MaxSamples)
	meta = append(meta, make([]byte, 2*MaxSamples+100)...)
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	packed := z.EncodeAll(meta, nil)
	packed = append(packed, zstdSkippable(len(meta)/maxMetaRatio)...)
	out := append([]byte(nil), body[:len(body)-len(rest)]...)
	out = binary.AppendUvarint(out, uint64(len(meta)))
	out = binary.AppendUvarint(out, uint64(len(packed)))
	out = append(out, packed...)
	out = append(out, make([]byte, 9)...)
	return reseal(append(out, 0, 0, 0, 0))
}

// zstdSkippable is a frame without content, RFC 8878, section 3.1.2.
func zstdSkippable(n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x184D2A50)
	return append(binary.LittleEndian.AppendUint32(b, uint32(n)), make([]byte, n)...)
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	e, _ := newCodec(t)
	s := sample.Sample{Value: sample.IntValue(1)}
	e.Reset([]string{"a/b/c"})
	for range MaxSamples + 1 {
		e.Add(0, &s)
	}
	if _, err := e.Encode(nil, Header{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than MaxSamples give %v", err)
	}
	e.Reset([]string{"a/b/c"})
	e.Add(1, &s)
	if out, err := e.Encode([]byte("x"), Header{}); err == nil || string(out) != "x" {
		t.Errorf("a tag beyond the dictionary gives %q, %v", out, err)
	}
	long := strings.Repeat("x", 256)
	e.Reset([]string{long})
	e.Add(0, &s)
	if out, err := e.Encode([]byte("x"), Header{}); err == nil || string(out) != "x" {
		t.Errorf("a tag of 256 bytes gives %d bytes, %v", len(out), err)
	}
	e.Reset([]string{"a/b/c"})
	if _, err := e.Encode(nil, Header{Site: long}); err == nil {
		t.Error("a site of 256 bytes is taken")
	}
	for i := range 600 {
		s := sample.Sample{Value: sample.StringValue(strings.Repeat("x", 32<<10+i))}
		e.Add(0, &s)
	}
	if _, err := e.Encode(nil, Header{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("19 MB of strings give %v", err)
	}
}

func TestRepetitiveStringsStayWithinTheRatio(t *testing.T) {
	e, d := newCodec(t)
	tags := []string{"a/b/c"}
	rows := []row{{0, sample.Sample{Value: sample.StringValue(strings.Repeat("x", 4<<20))}}}
	b, err := d.Decode(pack(t, e, tags, rows, Header{}))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "4 MiB of x", b, byTag(tags, rows))
}

func TestEncoderKeepsNothingFromTheBlockBefore(t *testing.T) {
	e, d := newCodec(t)
	for _, v := range vectors() {
		fresh, _ := newCodec(t)
		if got, want := pack(t, e, v.tags, v.rows, v.h), pack(t, fresh, v.tags, v.rows, v.h); string(got) != string(want) {
			t.Errorf("%s: a used encoder gives other bytes than a fresh one", v.name)
		}
		if _, err := d.Decode(pack(t, e, v.tags, v.rows, v.h)); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

func TestOnlyTagsWithSamplesAreListed(t *testing.T) {
	e, d := newCodec(t)
	s := sample.Sample{Value: sample.IntValue(1)}
	b, err := d.Decode(pack(t, e, []string{"a/b/unused", "a/b/c", "a/b/unused2"}, []row{{1, s}}, Header{}))
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Columns) != 1 || b.Columns[0].Tag != "a/b/c" {
		t.Errorf("columns are %+v", b.Columns)
	}
}

func TestWarmCodecsAllocateNothingPerSample(t *testing.T) {
	tags, rows := plantRows(20, 300)
	for i := range rows {
		s := &rows[i].s
		s.SourceTime = s.Time - int64(i%7)*1e6
		if i%50 == 0 {
			s.Quality = sample.BadTimeout
		}
		if i%20 == 3 {
			s.Value = sample.StringValue([]string{"on", "off"}[i/20%2])
			s.Producer, s.Seq = "p", uint64(i)
		}
	}
	e, d := newCodec(t)
	var data []byte
	encode := func() {
		e.Reset(tags)
		for i := range rows {
			e.Add(rows[i].tag, &rows[i].s)
		}
		var err error
		if data, err = e.Encode(data[:0], Header{}); err != nil {
			t.Fatal(err)
		}
	}
	encode()
	if n := testing.AllocsPerRun(20, encode); n > 60 {
		t.Errorf("encoding %d samples of %d tags makes %.0f allocations", len(rows), len(tags), n)
	}
	decode := func() {
		if _, err := d.Decode(data); err != nil {
			t.Fatal(err)
		}
	}
	decode()
	if n := testing.AllocsPerRun(20, decode); n > 20 {
		t.Errorf("decoding %d samples of %d tags makes %.0f allocations", len(rows), len(tags), n)
	}
	var w PartWriter
	part := func() {
		w.Reset(w.Bytes())
		for i := range rows {
			w.Add(rows[i].tag, &rows[i].s)
		}
	}
	part()
	if n := testing.AllocsPerRun(20, part); n > 0 {
		t.Errorf("a warm part writer makes %.0f allocations", n)
	}
}

func TestEncoderStaysSmall(t *testing.T) {
	tags, rows := plantRows(200, 60)
	n := allocated(func() {
		e, _ := newCodec(t)
		for range 5 {
			pack(t, e, tags, rows, Header{})
		}
	})
	if n > 8<<20 {
		t.Errorf("an encoder and a decoder take %d MB for blocks of %d samples", n>>20, len(rows))
	}
	t.Logf("%d KB", n>>10)
}

func TestHostileParts(t *testing.T) {
	ignore := func(int, *sample.Sample) error { return nil }
	for name, data := range map[string][]byte{
		"version": {9}, "cut off": {partVersionBare, partFormFloat | partSameTime | partNextTag, 1, 2}, "tag below": {partVersionBare, partSameTime, 3},
		"clock cut off": append([]byte{partVersion}, make([]byte, 16)...),
		"tag beyond":    append([]byte{partVersionBare, partSameTime}, binary.AppendVarint(nil, MaxDictionary)...),
		"long text":     append([]byte{partVersionBare, partFormText | partSameTime | partNextTag}, binary.AppendUvarint(nil, math.MaxUint64)...),
		"long varint":   {partVersionBare, partFormInt | partSameTime | partNextTag, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255},
		"decimals":      {partVersion, partFormTiny | partSameTime | partNextTag, 16, 0},
	} {
		if err := ReadPart(data, ignore); !isOurs(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := errors.New("stop")
	if err := ReadPart([]byte{partVersionBare, partSameTime | partNextTag, 0xFF}, func(int, *sample.Sample) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's error comes back as %v", err)
	}
	if err := ReadPart(nil, func(int, *sample.Sample) error { return stop }); err != nil {
		t.Errorf("a part without rows gives %v", err)
	}
}

func TestHostileJSON(t *testing.T) {
	e, d := newCodec(t)
	b, err := d.Decode(pack(t, e, []string{"a/b/c"}, []row{{0, float(1.5)}, {0, float(2)}}, Header{}))
	if err != nil {
		t.Fatal(err)
	}
	good := string(AppendJSON(nil, b))
	for _, c := range [][2]string{
		{`"count":2`, `"count":3`}, {`"version":1`, `"version":2`}, {`"version":1`, `"version":3`}, {`"lost":0`, `"lost":0,"thinned":1`},
		{`"version":1`, `"version":2,"replaces":[1]`}, {`"version":1`, `"version":2,"replaces":[2,1]`}, {`"version":1`, `"version":2,"replaces":[0,1]`}, {`millrace.block`, `other`}, {`[1.5,2]`, `[1.5]`}, {`[1.5,2]`, `[1.5,"x"]`},
		{`[1.5,2]`, `[1.5,null]`}, {`"float64"`, `"float32"`}, {`"float64"`, `["float64"]`}, {`"float64"`, `"bool"`}, {`"float64"`, `"null"`},
		{`[0,0]`, `[0]`}, {`[0,0]`, `[0,1.5]`}, {`"epoch":"0000000000000000"`, `"epoch":"0"`}, {`"boot":"00`, `"boot":"0000`}, {`"value"`, `"values"`},
		{`]}]}`, `]}]}}`}, {`]}]}`, `],"seq":[1,2]}]}`}, {`"clock":0`, `"clock":256`}, {`"seq":0`, `"seq":-1`},
	} {
		bad := strings.Replace(good, c[0], c[1], 1)
		if bad == good {
			t.Fatalf("%s is not in %s", c[0], good)
		}
		if _, err := ParseJSON([]byte(bad)); !isOurs(err) {
			t.Errorf("with %s for %s: %v", c[1], c[0], err)
		}
	}
	if _, err := ParseJSON([]byte(good)); err != nil {
		t.Errorf("%s: %v", good, err)
	}
}

// A part says by which clock its rows were stamped; one of the version before is
// read, and says nothing.
func TestPartClock(t *testing.T) {
	var w PartWriter
	want := PartClock{Boot: [16]byte{1, 15: 9}, Mono: -5e18, Clock: ClockHoldover, Stated: true}
	for range 2 {
		w.SetClock(want)
		w.Add(0, &sample.Sample{Time: 7, Value: sample.IntValue(1)})
		got, err := ReadPartClock(w.Bytes())
		if err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
		w.Reset(nil) // keeps the clock
	}
	bare := []byte{partVersionBare, partSameTime | partNextTag | partFormTrue}
	if got, err := ReadPartClock(bare); err != nil || got.Stated {
		t.Errorf("%+v, %v", got, err)
	}
	if err := ReadPart(bare, func(int, *sample.Sample) error { return nil }); err != nil {
		t.Error(err)
	}
}
