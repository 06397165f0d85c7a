// Package lake is the Parquet form in which samples, gap records and the
// catalogue are kept in the archive: the files' keys, schemas, writers and
// readers. docs/cloud-archive.md describes it.
//
// The columns of each file, their order and their types do not change: a
// warehouse loads them by count and order. Site and day are in a file's key, as
// Hive has them, and not in its columns.
package lake

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind is what a file holds, and the first part of its key.
type Kind string

// The kinds of file.
const (
	Samples   Kind = "samples"
	Gaps      Kind = "gaps"
	Catalogue Kind = "catalogue"
)

// Key is a file's key, taken apart.
type Key struct {
	Kind Kind
	Site string
	Day  time.Time // 00:00 UTC; zero for the catalogue
	Part int
}

// String is the key as it stands in the archive.
func (k Key) String() string {
	switch k.Kind {
	case Gaps:
		return GapsKey(k.Site, k.Day, k.Part)
	case Catalogue:
		return CatalogueKey(k.Site, k.Part)
	case Samples:
	}
	return SamplesKey(k.Site, k.Day, k.Part)
}

// SamplesKey is the key of one file of a site's samples whose primary time is in
// the day of UTC that holds day.
func SamplesKey(site string, day time.Time, part int) string {
	return SamplesPrefix(site, day) + partName(part)
}

// SamplesPrefix is what the keys of all files of a site's samples of a day begin
// with.
func SamplesPrefix(site string, day time.Time) string { return dayPrefix(Samples, site, day) }

// GapsKey is the key of one file of the gaps of a site that begin in the day of
// UTC that holds day.
func GapsKey(site string, day time.Time, part int) string {
	return GapsPrefix(site, day) + partName(part)
}

// GapsPrefix is what the keys of all files of a site's gaps of a day begin with.
func GapsPrefix(site string, day time.Time) string { return dayPrefix(Gaps, site, day) }

// CatalogueKey is the key of one file of a site's catalogue.
func CatalogueKey(site string, part int) string {
	return string(Catalogue) + "/site=" + escape(site) + "/" + partName(part)
}

func dayPrefix(k Kind, site string, day time.Time) string {
	return string(k) + "/site=" + escape(site) + "/date=" + day.UTC().Format(time.DateOnly) + "/"
}

func partName(part int) string { return fmt.Sprintf("part-%05d.parquet", part) }

// ParseKey takes a key apart. ok is false for what is none of these files.
func ParseKey(key string) (k Key, ok bool) {
	parts := strings.Split(key, "/")
	k.Kind = Kind(parts[0])
	switch k.Kind {
	case Samples, Gaps:
		ok = len(parts) == 4
	case Catalogue:
		ok = len(parts) == 3
	}
	if !ok {
		return Key{}, false
	}
	site, ok := strings.CutPrefix(parts[1], "site=")
	if !ok {
		return Key{}, false
	}
	if k.Site, ok = unescape(site); !ok {
		return Key{}, false
	}
	if len(parts) == 4 {
		day, err := time.Parse("date="+time.DateOnly, parts[2])
		if err != nil {
			return Key{}, false
		}
		k.Day = day
	}
	number := strings.TrimSuffix(strings.TrimPrefix(parts[len(parts)-1], "part-"), ".parquet")
	part, err := strconv.Atoi(number)
	if err != nil || part < 0 {
		return Key{}, false
	}
	k.Part = part
	if k.String() != key {
		return Key{}, false
	}
	return k, true
}

// escaped are the characters that Hive, and Spark with it, write as %XX in the
// value of a partition; control characters besides. Apache Hive, FileUtils.
const escaped = "\"#%'*/:=?\\{[]^\x7f"

func escape(value string) string {
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c < 0x20 || strings.IndexByte(escaped, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unescape(text string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", false
		}
		c, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), true
}

// Day is the day of UTC that holds an instant in ns since the Unix epoch, as
// that day's 00:00.
func Day(ns int64) time.Time { return time.Unix(0, ns).UTC().Truncate(24 * time.Hour) }
