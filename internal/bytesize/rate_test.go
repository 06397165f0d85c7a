package bytesize

import "testing"

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"64KiB/s": 64 << 10, "1.5 MB/s": 1_500_000, "900B/s": 900} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "64KiB", "64/s", "/s", "64KiB/min", "64Kibit/s"} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
	if got := Rate(64 << 10).String(); got != "64KiB/s" {
		t.Errorf("64 KiB/s prints %q", got)
	}
}
