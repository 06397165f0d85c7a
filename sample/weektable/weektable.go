// Package weektable is the contract between who writes blocks to DynamoDB and
// who reads them there: one table for each ISO week, and the keys of a block
// in it. Everything in it is a pure function.
//
// A block lies in the table of the week that holds its first sample, in UTC,
// under a partition key that names its stream and a sort key that sorts by
// time:
//
//	table  <prefix>-samples-2026-w48
//	pk     site#gateway#stream
//	sk     2026-11-23T11:26:00.000000000Z#0123456789abcdef#00000000000000000042#89abcdef
//	       block start                    epoch            sequence             Checksum
//
// Every part of the sort key has a fixed width. Both keys depend on the
// block's bytes alone, so a block that is written again replaces itself.
package weektable

import (
	"fmt"
	"hash/crc32"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"millrace/sample/block"
)

// The attributes of an item.
const (
	AttrPartition = "pk"      // S: site#gateway#stream
	AttrSort      = "sk"      // S: see Keys
	AttrBlock     = "block"   // B: the block's bytes as they were sealed
	AttrFirst     = "first"   // N: time of the first sample, ns since the Unix epoch
	AttrLast      = "last"    // N: time of the last sample
	AttrCount     = "count"   // N: samples in the block
	AttrVersion   = "version" // N: Version
	AttrCodec     = "codec"   // S: Codec
)

// Version is the version of the item's layout, and Codec the format of its bytes.
const (
	Version = 1
	Codec   = "millrace.block.v1"
)

// ahead is how far in the future a block may start; beyond that its clock is
// not to be believed.
const ahead = 24 * time.Hour

// startLayout has a fixed width for every time that an int64 of ns can hold.
const startLayout = "2006-01-02T15:04:05.000000000Z"

var (
	prefixForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,200}$`)
	weekForm   = regexp.MustCompile(`^(.+)-samples-([0-9]{4})-w([0-9]{2})$`)
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// CheckPrefix reports why prefix cannot begin a table's name: DynamoDB allows
// letters, digits, '_', '-' and '.', and 255 characters in all.
func CheckPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) {
		return fmt.Errorf("table prefix %q: want 1 to 200 letters, digits, '_', '-' or '.'", prefix)
	}
	return nil
}

// Table returns the name of the table of the ISO week, in UTC, that holds t.
// Around New Year the ISO year differs from the calendar's.
func Table(prefix string, t time.Time) string {
	year, week := t.UTC().ISOWeek()
	return fmt.Sprintf("%s-samples-%04d-w%02d", prefix, year, week)
}

// Unplaced returns the name of the table of blocks whose time is not believable.
func Unplaced(prefix string) string { return prefix + "-samples-unplaced" }

// Place returns the table for a block that starts at first (ns since the Unix
// epoch): its week's, or the unplaced one where it starts more than a day after
// now or more than retention before it. A retention of 0 has no end.
func Place(prefix string, first int64, now time.Time, retention time.Duration) string {
	start := time.Unix(0, first)
	if start.After(now.Add(ahead)) || start.Before(time.Unix(0, 0)) || retention > 0 && start.Before(now.Add(-retention)) {
		return Unplaced(prefix)
	}
	return Table(prefix, start)
}

// ParseTable takes a week table's name apart. start is Monday 00:00 UTC of the
// week; ok is false for any other name.
func ParseTable(name string) (prefix string, start time.Time, ok bool) {
	m := weekForm.FindStringSubmatch(name)
	if m == nil {
		return "", time.Time{}, false
	}
	year, _ := strconv.Atoi(m[2]) // digits by the pattern
	week, _ := strconv.Atoi(m[3])
	// 4 January is always in week 1. ISO 8601, 2.2.10.
	start = time.Date(year, 1, 4, 0, 0, 0, 0, time.UTC)
	start = start.AddDate(0, 0, -(int(start.Weekday())+6)%7+7*(week-1))
	if Table(m[1], start) != name { // week 00, or 53 of a year with 52
		return "", time.Time{}, false
	}
	return m[1], start, true
}

// Checksum returns the CRC-32C of a block's bytes, as its sort key has it: of
// all but the last four. Those are the block's own checksum of the rest, and
// over both together every block has the same one.
func Checksum(data []byte) uint32 {
	return crc32.Checksum(data[:max(0, len(data)-crc32.Size)], castagnoli)
}

// Keys returns a block's partition key and sort key.
func Keys(h *block.Header, crc uint32) (pk, sk string) {
	return Partition(h.Site, h.Gateway, h.Stream), fmt.Sprintf("%s#%016x#%020d#%08x", StartKey(h.First), h.Epoch, h.Seq, crc)
}

// Partition returns the partition key of a stream.
func Partition(site, gateway, stream string) string { return site + "#" + gateway + "#" + stream }

// StartKey returns the first part of the sort keys of blocks that start at
// first (ns since the Unix epoch). A key condition on a range of time compares
// with it: a sort key sorts at or after StartKey of its own block's start.
func StartKey(first int64) string { return time.Unix(0, first).UTC().Format(startLayout) }

// LateKey returns the key of the object in which a block waits that came when
// its week's table was gone, for the next archive run of that week:
//
//	late/<prefix>-samples-2026-w40/site/gateway/stream/20260928T112600.000000000Z-<epoch>-<sequence>-<Checksum>.block
//
// Like the item's keys it depends on the block's bytes alone. The object's
// content is these bytes. Names are escaped as in a URL's path.
func LateKey(prefix string, h *block.Header, crc uint32) string {
	return fmt.Sprintf("%s%s/%s/%s/%s-%016x-%020d-%08x.block", LatePrefix(Table(prefix, time.Unix(0, h.First))), pathPart(h.Site), pathPart(h.Gateway),
		pathPart(h.Stream), time.Unix(0, h.First).UTC().Format("20060102T150405.000000000Z"), h.Epoch, h.Seq, crc)
}

// LatePrefix returns what the keys of a week table's late blocks begin with.
func LatePrefix(table string) string { return "late/" + table + "/" }

// pathPart is a name that is one part of a path, whatever is in it.
func pathPart(name string) string {
	if name == "" || name == "." || name == ".." {
		return "%" + name
	}
	return url.PathEscape(name)
}

// Key is a block's keys, taken apart.
type Key struct {
	Site, Gateway, Stream string
	First                 int64 // ns since the Unix epoch
	Epoch                 uint64
	Seq                   uint64
	CRC                   uint32
}

// ParseKeys takes a block's keys apart. It takes only what Keys returns.
func ParseKeys(pk, sk string) (Key, error) {
	who := strings.Split(pk, "#")
	what := strings.Split(sk, "#")
	if len(who) != 3 || len(what) != 4 {
		return Key{}, fmt.Errorf("block keys %q, %q: want site#gateway#stream and start#epoch#sequence#crc", pk, sk)
	}
	start, err := time.Parse(startLayout, what[0])
	if err != nil {
		return Key{}, fmt.Errorf("sort key %q: block start: %w", sk, err)
	}
	k := Key{Site: who[0], Gateway: who[1], Stream: who[2], First: start.UnixNano()}
	if k.Epoch, err = strconv.ParseUint(what[1], 16, 64); err != nil {
		return Key{}, fmt.Errorf("sort key %q: epoch: %w", sk, err)
	}
	if k.Seq, err = strconv.ParseUint(what[2], 10, 64); err != nil {
		return Key{}, fmt.Errorf("sort key %q: sequence: %w", sk, err)
	}
	crc, err := strconv.ParseUint(what[3], 16, 32)
	if err != nil {
		return Key{}, fmt.Errorf("sort key %q: checksum: %w", sk, err)
	}
	k.CRC = uint32(crc)
	h := block.Header{Site: k.Site, Gateway: k.Gateway, Stream: k.Stream, First: k.First, Epoch: k.Epoch, Seq: k.Seq}
	if p, s := Keys(&h, k.CRC); p != pk || s != sk {
		return Key{}, fmt.Errorf("block keys %q, %q are not in their fixed form", pk, sk)
	}
	return k, nil
}
