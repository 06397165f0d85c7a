package bytesize

import (
	"fmt"
	"strings"
)

// Rate is a number of bytes a second. In YAML it is written as a size with /s:
// 64KiB/s.
type Rate int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(text []byte) error {
	size, ok := strings.CutSuffix(string(text), "/s")
	v, err := Parse(strings.TrimSpace(size))
	if !ok || err != nil {
		return fmt.Errorf("%q is not a rate in bytes a second, such as 64KiB/s or 1MB/s", text)
	}
	*r = Rate(v)
	return nil
}

// String prints the rate as it is written.
func (r Rate) String() string { return Size(r).String() + "/s" }
