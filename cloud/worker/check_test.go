package worker

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var monday = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC) // 2026-w48

// resealed changes a block's byte and makes its CRC fit again.
func resealed(data []byte, at int, to byte) []byte {
	out := append([]byte{}, data...)
	out[at] = to
	body := out[:len(out)-4]
	binary.LittleEndian.PutUint32(out[len(out)-4:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return out
}

func TestPoisonIsKnown(t *testing.T) {
	good := blockOf(t, header(1), monday, 10)
	thinned := header(2)
	thinned.Thinned = 5
	body := func(data []byte) func(*types.Message) {
		return func(m *types.Message) { m.Body = aws.String(base64.StdEncoding.EncodeToString(data)) }
	}
	attribute := func(name, value string) func(*types.Message) {
		return func(m *types.Message) { set(m, name, "String", value) }
	}
	flipped := append([]byte{}, good...)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		change func(*types.Message)
		sites  []string
		reason string // "" where it is whole
	}{
		"whole":             {func(*types.Message) {}, nil, ""},
		"whole, of a site":  {func(*types.Message) {}, []string{"south", "north"}, ""},
		"another site":      {func(*types.Message) {}, []string{"south"}, `site "north" is not among those of this worker`},
		"no attributes":     {func(m *types.Message) { m.MessageAttributes = nil }, nil, "no attribute schema"},
		"another schema":    {attribute("schema", "acme.v1"), nil, `schema "acme.v1" is none of millrace's`},
		"JSON":              {attribute("schema", "millrace.json.v1"), nil, "the JSON form"},
		"JSON, version 2":   {attribute("schema", "millrace.json.v2"), nil, "the JSON form"},
		"not base64":        {func(m *types.Message) { m.Body = aws.String("{}") }, nil, "not base64"},
		"no body":           {func(m *types.Message) { m.Body = nil }, nil, "corrupt block"},
		"no block":          {body([]byte("hello")), nil, "corrupt block"},
		"cut":               {body(good[:len(good)-1]), nil, "CRC-32C is"},
		"flipped":           {body(flipped), nil, "CRC-32C is"},
		"newer":             {body(resealed(good, 2, 9)), nil, "unknown block format version: 9, this program reads 1 and 2: a newer worker may"},
		"header cut short":  {body(resealed(good, 3, 255)), nil, "corrupt block"},
		"schema's version":  {attribute("schema", "millrace.block.v2"), nil, "the block has version 1"},
		"attribute missing": {func(m *types.Message) { delete(m.MessageAttributes, "gateway") }, nil, `attribute gateway is "", and the block's header says "gw1"`},
		"site":              {attribute("site", "south"), nil, `attribute site is "south"`},
		"stream":            {attribute("stream", "s0002"), nil, `attribute stream is "s0002"`},
		"epoch":             {attribute("epoch", "8"), nil, `attribute epoch is "8"`},
		"sequence":          {attribute("seq", "2"), nil, `attribute seq is "2"`},
		"first":             {attribute("first", "0"), nil, `attribute first is "0"`},
		"last":              {attribute("last", "0"), nil, `attribute last is "0"`},
		"count":             {attribute("count", "11"), nil, `attribute count is "11"`},
		"long attribute":    {attribute("schema", strings.Repeat("x", 9000)), nil, "is none of millrace's"},
	} {
		m := messageOf(t, good)
		c.change(&m)
		sites := map[string]bool{}
		for _, s := range c.sites {
			sites[s] = true
		}
		p := parcel{message: &m}
		got := p.open(sites)
		if c.reason == "" && got != "" || !strings.Contains(got, c.reason) || len(got) > 600 {
			t.Errorf("%s: %q, want %q", name, got, c.reason)
		}
	}
	m := messageOf(t, blockOf(t, thinned, monday, 10))
	p := parcel{message: &m}
	if got := p.open(nil); got != "" || p.header.Thinned != 5 {
		t.Errorf("version 2: %q", got)
	}
	hash := header(1)
	hash.Gateway = "gw#1"
	m = messageOf(t, blockOf(t, hash, monday, 10))
	if got := (&parcel{message: &m}).open(nil); !strings.Contains(got, "its names make no keys") {
		t.Errorf("'#': %q", got)
	}
}

// TestReasonsFitAnAttribute holds the characters and the length that SQS takes.
func TestReasonsFitAnAttribute(t *testing.T) {
	got := plain("a\x00b\nc\xffd\uffff" + strings.Repeat("ü", 1000))
	if !strings.HasPrefix(got, "a b c?d ") || len(got) > maxReason || strings.Contains(got, "\ufffd") {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
}
