// Package bytesize reads and prints sizes in bytes as people write them.
package bytesize

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes. In YAML it is written with a unit: 64MiB, 180KiB,
// 1GB, 512B. KiB, MiB, GiB and TiB are powers of 1024; kB, MB, GB and TB are
// powers of 1000.
type Size int64

// The binary units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	name string
	size Size
}{
	{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"TiB", TiB},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// Parse reads a size with its unit. A bare number is refused, since nobody can
// tell whether its writer thought of bytes or of megabytes.
func Parse(text string) (Size, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || !(n >= 0 && n*float64(u.size) <= 1<<62) {
			break
		}
		return Size(n * float64(u.size)), nil
	}
	return 0, fmt.Errorf("%q is not a size with a unit, such as 64MiB, 180KiB or 2GB", text)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

// String prints the size in the largest binary unit that leaves at least 1,
// with one decimal where it is not whole.
func (s Size) String() string {
	for _, u := range []struct {
		name string
		size Size
	}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
		if s >= u.size {
			if s%u.size == 0 {
				return fmt.Sprintf("%d%s", s/u.size, u.name)
			}
			return fmt.Sprintf("%.1f%s", float64(s)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}
