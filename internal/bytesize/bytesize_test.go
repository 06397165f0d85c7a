package bytesize

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]Size{
		"64MiB": 64 * MiB, "180KiB": 180 * KiB, "1GB": 1e9, "512B": 512, "1.5GiB": 3 * GiB / 2, "2 MiB": 2 * MiB, "3kB": 3000,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "64", "MiB", "-1MiB", "64 megs", "1e40TiB", "NaNMiB"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", text, got)
		}
	}
}

func TestString(t *testing.T) {
	for size, want := range map[Size]string{512: "512B", 64 * MiB: "64MiB", 1536: "1.5KiB", 3 * TiB: "3TiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d prints %q, want %q", int64(size), got, want)
		}
	}
}
