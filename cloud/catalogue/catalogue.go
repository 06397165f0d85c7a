// Package catalogue keeps three small tables beside the week tables, so that
// nobody has to read blocks to know what there is: which stream carries a tag
// and in what unit, which losses were declared, and each tag's newest reading.
//
//	<prefix>-catalogue  pk site          sk tag#gateway#stream
//	<prefix>-gaps       pk site#gateway  sk 01795860000000000000#spool/0123456789abcdef/17
//	                                        start in ns, 20 digits   origin/epoch/id
//	                    pk site          sk gateway: which gateways have any
//	<prefix>-latest     pk site          sk tag
//
// All is taken from blocks, and what is written depends on the block's bytes
// alone: gaps by pure puts, the others on the condition that the record or the
// reading is newer than the one there. So blocks that come again, in any order,
// or twice at once, make the same tables.
package catalogue

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// API is what is asked of DynamoDB.
type API interface {
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	BatchWriteItem(context.Context, *dynamodb.BatchWriteItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error)
	BatchGetItem(context.Context, *dynamodb.BatchGetItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error)
	Query(context.Context, *dynamodb.QueryInput, ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error)
	Scan(context.Context, *dynamodb.ScanInput, ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error)
}

// Entry is what a gateway says of a tag in one of its streams: the newest record
// of it.
type Entry struct {
	Site, Gateway string
	ledger.CatalogueEntry
	// Since is when the gateway sent the record, so since when the tag is as it
	// says. The stream may have carried the tag before. Zero where the gateway's
	// clock was not to be believed.
	Since time.Time
}

// Gap is a declared loss.
type Gap struct {
	Site, Gateway string
	ledger.Gap
}

// Start is when the loss began: From, else To, else when it was declared.
func (g *Gap) Start() time.Time { return first(g.From, g.To, g.At) }

// End is when the loss ended: To, else From, else when it was declared.
func (g *Gap) End() time.Time { return first(g.To, g.From, g.At) }

func first(list ...time.Time) time.Time {
	for _, t := range list {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// Identity names the record among those of its gateway.
func (g *Gap) Identity() string {
	origin := g.Origin
	if origin == ledger.FromSpool {
		origin = "spool"
	}
	return fmt.Sprintf("%s/%s/%d", origin, g.Epoch, g.ID)
}

// Reading is a tag's newest reading. A text of more than 4 KiB is cut.
type Reading struct {
	sample.Sample
	Gateway, Stream string
}

// Store reads and writes the tables of one prefix. It may be used from any
// goroutine.
type Store struct {
	DB     API
	Prefix string
	// LatestOf are patterns, as Match has them, of the tags whose newest reading
	// is kept; none keeps none. System tags are never among them.
	LatestOf []string
	Clock    clock.Clock // the machine's where it is nil

	mu       sync.Mutex
	decoders []*block.Decoder  // that nobody uses now
	newest   map[string]string // versions that are known to be in the latest table, by tag
}

// Table returns the name of the catalogue's table.
func Table(prefix string) string { return prefix + "-catalogue" }

// GapsTable returns the name of the gap records' table.
func GapsTable(prefix string) string { return prefix + "-gaps" }

// LatestTable returns the name of the newest readings' table.
func LatestTable(prefix string) string { return prefix + "-latest" }

// Tables returns the names of all three.
func Tables(prefix string) []string {
	return []string{Table(prefix), GapsTable(prefix), LatestTable(prefix)}
}

// Match reports whether a tag fits a pattern, in which * stands for any
// characters, slashes too: north/meter07/*, */power.
func Match(pattern, tag string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == tag
	}
	rest, ok := strings.CutPrefix(tag, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, p)
		if at < 0 {
			return false
		}
		rest = rest[at+len(p):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// CheckPattern reports why a pattern fits no tag.
func CheckPattern(pattern string) error {
	if sample.CheckName(strings.NewReplacer("/", "", "*", "x").Replace(pattern)) != nil {
		return fmt.Errorf("%q fits no tag: write it as in north/meter07/* or */power", pattern)
	}
	return nil
}

// The attributes of the items, beside the keys.
const (
	attrGateway = "gateway"
	attrStream  = "stream"
	attrRecord  = "record"  // S: the record's JSON as it came
	attrSince   = "since"   // N: ns since the Unix epoch
	attrEnd     = "end"     // N: of a gap, ns since the Unix epoch
	attrVersion = "version" // S: which of two is newer; see version

	attrTime        = "time"         // N: primary time, ns since the Unix epoch
	attrAt          = "at"           // S: the same, to be read
	attrGatewayTime = "gateway_time" // N: where the device gave a time of its own
	attrKind        = "kind"         // S: sample.Kind's name
	attrValue       = "value"        // N, BOOL, S or NULL
	attrQuality     = "quality"      // N: OPC UA status code
)

// version orders what two blocks say of the same: by time, and where that is
// equal by the block and the place in it. Every part has a fixed width.
func version(h *block.Header, at int64, row int) string {
	return fmt.Sprintf("%020d#%016x#%020d#%06d", max(at, 0), h.Epoch, h.Seq, row)
}

func entryKey(e *Entry) (pk, sk string) { return e.Site, e.Tag + "#" + e.Gateway + "#" + e.Stream }

func gapKey(g *Gap) (pk, sk string) {
	return g.Site + "#" + g.Gateway, gapStart(g.Start()) + "#" + g.Identity()
}

// gapStart is the first part of a gap's sort key.
func gapStart(t time.Time) string { return fmt.Sprintf("%020d", nanos(t)) }

// nanos is t in ns since the Unix epoch, within what an int64 from 0 holds.
func nanos(t time.Time) int64 {
	switch {
	case t.Unix() < 0:
		return 0
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// SiteOf returns the site of a full tag name.
func SiteOf(tag string) string {
	site, _, _ := strings.Cut(tag, "/")
	return site
}

func keys(pk, sk string) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{weektable.AttrPartition: text(pk), weektable.AttrSort: text(sk)}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}
