package archive

import (
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/sample"
	"millrace/sample/weektable"
)

// TestLateBlocks: while the table is there they are archived with it, and only
// the days change that they are of.
func TestLateBlocks(t *testing.T) {
	r := newRig(t)
	r.fill()
	r.must()
	before := r.contents()
	key := r.late("north", "gw1", "s0001", 1000, polled(1, 2*24*time.Hour+time.Hour, 6)...)
	report := r.must()
	if report.Late != 1 || report.Days != 1 || report.Kept != filledDays-1 || report.Items != filledItems {
		t.Errorf("%+v", report)
	}
	if m := r.manifest(); len(m.Late) != 1 || m.Late[0] != key {
		t.Errorf("%v", m.Late)
	}
	changed := 0
	for key, data := range r.contents() {
		if before[key] != data {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d files have changed, want that of the day and the manifest", changed)
	}
	// A block that is in the table too is one.
	r.late("north", "gw1", "s0001", 1, polled(1, 0, 6)...)
	r.want = r.want[:len(r.want)-18]
	if report = r.must(); report.Late != 2 || report.Days != 0 || report.Unchanged {
		t.Errorf("%+v", report)
	}
}

// TestLateBlocksOfADroppedTable: they are added to what is there, which is left
// as it is, and once only.
func TestLateBlocksOfADroppedTable(t *testing.T) {
	r := newRig(t)
	r.fill()
	sourced := func(d time.Duration) sample.Sample {
		return sample.Sample{Tag: "north/m9/r", Time: at(time.Hour), SourceTime: at(time.Hour + d), Value: sample.FloatValue(d.Seconds())}
	}
	r.put("north", "gw1", "s0003", 1, sourced(1), sourced(2), sourced(3))
	r.must()
	before := r.contents()
	r.drop()
	if report := r.must(); !report.Dropped || !report.Unchanged || report.Items != filledItems+1 {
		t.Errorf("nothing came: %+v", report)
	}
	r.late("north", "gw1", "s0003", 2, sourced(2), sourced(3), sourced(4))
	r.late("north", "gw1", "s0001", 1000, polled(1, time.Hour, 6)...)
	r.late("north", "gw1", "s0001", 1001, polled(1, 5*24*time.Hour-30*time.Second, 6)...)
	r.late("east", "gw7", "s0001", 1, sample.Sample{Tag: "east/m/r", Time: at(0), Value: sample.IntValue(1)})
	report := r.must()
	if report.Late != 4 || report.Days != 4 || report.Kept != filledDays-3 || report.WrittenFiles != 4 || report.Duplicates != 2 {
		t.Errorf("%+v", report)
	}
	after := r.contents()
	for key, data := range before {
		if strings.HasPrefix(key, "samples/") && after[key] != data {
			t.Errorf("%s has changed, and the table is gone", key)
		}
	}
	if report = r.must(); !report.Unchanged {
		t.Errorf("again: %+v", report)
	}
	r.same(after)
	// More of the same day, and the first late objects expired.
	for _, key := range r.list("late/") {
		if err := r.place.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	r.late("north", "gw1", "s0003", 3, sourced(4), sourced(5))
	if report = r.must(); report.Late != 5 || report.Days != 1 || report.Duplicates != 3 {
		t.Errorf("%+v", report)
	}
	// A crash after the file and before the manifest.
	r.late("north", "gw1", "s0004", 1, polled(4, time.Hour, 6)...)
	failing := &fault{Place: r.place, fail: func(op, key string) bool { return op == "put" && strings.HasPrefix(key, "manifests/") }}
	o := r.options()
	o.Place = failing
	if _, err := runWith(t.Context(), o, small); err == nil || !failing.failed {
		t.Fatalf("the manifest could not be written, and it says %v", err)
	}
	r.late("north", "gw1", "s0004", 2, polled(4, 2*time.Hour, 6)...)
	r.must()
}

// TestBlockAgainAfterItsTable: a message that comes again when its block's table is
// gone doubles nothing, whether its samples have an identity or not.
func TestBlockAgainAfterItsTable(t *testing.T) {
	r := newRig(t)
	r.fill()
	all := every()
	r.put("north", "gw1", "s0005", 1, all...)
	r.must()
	r.drop()
	once := slices.Clone(r.want)
	r.late("north", "gw1", "s0001", 1, polled(1, 0, 6)...)
	r.late("north", "gw1", "s0005", 1, all...)
	r.want = once
	if report := r.must(); report.Late != 2 || report.Duplicates != int64(18+len(all)) {
		t.Errorf("%+v", report)
	}
	// The same readings of another stream are others.
	r.late("north", "gw1", "s0009", 1, polled(1, 0, 6)...)
	r.must()
}

// TestLateBlocksOfNoTable: a week whose table never was.
func TestLateBlocksOfNoTable(t *testing.T) {
	r := newRig(t)
	r.drop()
	r.late("north", "gw1", "s0001", 1, polled(1, time.Hour, 6)...)
	report := r.must()
	if !report.Dropped || report.Late != 1 || report.Items != 0 || report.Rows != 18 {
		t.Errorf("%+v", report)
	}
	if report = r.must(); !report.Unchanged {
		t.Errorf("again: %+v", report)
	}
	r.late("north", "gw1", "s0001", 2, polled(1, 2*time.Hour, 6)...)
	if report = r.must(); report.Late != 2 || report.Rows != 36 {
		t.Errorf("%+v", report)
	}
}

// TestUnreadableLateBlocks: the archive does not claim them.
func TestUnreadableLateBlocks(t *testing.T) {
	for name, dropped := range map[string]bool{"with its table": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fill()
			r.must()
			before := r.contents()
			if dropped {
				r.drop()
			}
			h, data := r.pack("north", "gw1", "s0001", 1000, polled(1, time.Hour, 1)...)
			for key, bad := range map[string][]byte{
				weektable.LateKey("plant", &h, 1):                                data,
				weektable.LateKey("plant", &h, weektable.Checksum(data)):         data[:len(data)-1],
				weektable.LatePrefix(table) + "notes.txt":                        []byte("somebody's"),
				strings.TrimSuffix(weektable.LateKey("plant", &h, 2), "k") + "k": make([]byte, maxLate+1),
			} {
				if err := r.place.Put(t.Context(), key, bad); err != nil {
					t.Fatal(err)
				}
				_, err := r.run()
				if err == nil || !strings.Contains(err.Error(), "unreadable blocks: 1, such as "+key) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %v", key, err)
				}
				if err := r.place.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			r.same(before)
		})
	}
}
