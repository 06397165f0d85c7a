package csv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// disk counts what is done to a folder and fails where it is told to.
type disk struct {
	mu      sync.Mutex
	renames int
	fail    map[step]error
	hang    map[step]chan struct{}
}

func (d *disk) hook(s step) error {
	d.mu.Lock()
	hang := d.hang[s]
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail[s]; err != nil {
		return err
	}
	if s == stepRename {
		d.renames++
	}
	return nil
}

func (d *disk) set(s step, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[s] = err
}

func (d *disk) writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.renames
}

func testConfig(t *testing.T) (*Config, *disk) {
	t.Helper()
	d := &disk{fail: map[step]error{}}
	c := Protocol{}.NewConfig().(*Config)
	c.Dir = filepath.Join(t.TempDir(), "drop")
	if err := os.Mkdir(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c.hook = d.hook
	return c, d
}

func described(name, unit string, kind sample.Kind) *Target {
	o := new(Config).NewTarget().(*Target)
	o.Describe(protocols.TargetInfo{Name: name, Kind: kind, Unit: unit})
	return o
}

// shown reads the second line of a file of default form, without the code
// under test, for values that need no quotes.
func shown(path string, kind sample.Kind) (v sample.Value, quality string, err error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return v, "", nil
	}
	if err != nil {
		return v, "", err
	}
	lines := strings.Split(string(data), "\r\n")
	if len(lines) != 3 || lines[0] != "target,value,unit,quality,time,version,valid_until" || lines[2] != "" {
		return v, "", fmt.Errorf("the file is %q", data)
	}
	fields := strings.Split(lines[1], ",")
	switch kind {
	case sample.Float64:
		var f float64
		err = json.Unmarshal([]byte(fields[1]), &f)
		v = sample.FloatValue(f)
	case sample.Int64:
		var i int64
		i, err = strconv.ParseInt(fields[1], 10, 64)
		v = sample.IntValue(i)
	case sample.Bool:
		v = sample.BoolValue(fields[1] == "true")
	default:
		v = sample.StringValue(strings.TrimPrefix(fields[1], "'"))
	}
	return v, fields[3], err
}

func startTargets(t *testing.T) *protocolstest.TargetDevice {
	cfg, disk := testConfig(t)
	away := cfg.Dir + ".away"
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	when := func(s step, err error) func(bool) {
		return func(on bool) {
			if on {
				disk.set(s, err)
			} else {
				disk.set(s, nil)
			}
		}
	}
	d := &protocolstest.TargetDevice{
		Config: cfg, Writes: disk.writes,
		Stop:   func() { must(os.Rename(cfg.Dir, away)) },
		Resume: func() { must(os.Rename(away, cfg.Dir)) },
		// The file is there, and that it will stay is not known.
		LoseAnswers: when(stepSyncDir, syscall.EIO),
		Reject:      when(stepCreate, syscall.EACCES),
	}
	for i, p := range []struct {
		kind     sample.Kind
		good     []sample.Value
		unsuited []sample.Value
	}{
		{sample.Float64, []sample.Value{sample.FloatValue(-41.5), sample.IntValue(3), sample.FloatValue(1e21)}, []sample.Value{sample.StringValue("41.5"), sample.BoolValue(true), {}}},
		{sample.Int64, []sample.Value{sample.IntValue(1<<62 + 1), sample.FloatValue(-5)}, []sample.Value{sample.FloatValue(41.5)}},
		{sample.Bool, []sample.Value{sample.BoolValue(true), sample.BoolValue(false)}, []sample.Value{sample.IntValue(1)}},
		{sample.String, []sample.Value{sample.StringValue("=1+1"), sample.StringValue("Süd")}, []sample.Value{sample.StringValue("a\nb"), sample.StringValue("\xff"), sample.IntValue(1)}},
	} {
		own := described(fmt.Sprint("sp", i), "kW", p.kind)
		own.HeartbeatFile = fmt.Sprint("beat", i, ".csv")
		path, beat := filepath.Join(cfg.Dir, fmt.Sprint("sp", i, ".csv")), filepath.Join(cfg.Dir, own.HeartbeatFile)
		d.Places = append(d.Places, protocolstest.TargetPlace{
			Config: own, Kind: p.kind, Good: p.good, Unsuited: p.unsuited,
			Held: func() (sample.Value, error) {
				v, _, err := shown(path, p.kind)
				return v, err
			},
			Valid: func() (bool, error) {
				_, quality, err := shown(path, p.kind)
				return quality == "Good", err
			},
			Heartbeat: func() (n uint16, err error) {
				data, err := os.ReadFile(beat)
				if err == nil {
					_, err = fmt.Sscanf(string(data), "heartbeat\r\n%d\r\n", &n)
				}
				return n, err
			},
		})
	}
	return d
}

func TestTargets(t *testing.T) {
	protocolstest.RunTarget(t, protocolstest.TargetHarness{
		Protocol: Protocol{}, Start: startTargets,
		Faulty: func() (protocols.TargetConfig, sample.Kind, []string) {
			return &Target{File: "../a.csv", Columns: []string{"value", "value", "name"}, HeartbeatFile: ".b"}, sample.Float64,
				[]string{"file", "columns[1]", "columns[2]", "columns", "heartbeat_file"}
		},
	})
}

func openTarget(t *testing.T, c *Config, own *Target) (protocols.Target, *protocolstest.HealthRecorder) {
	t.Helper()
	conn, err := c.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	h := new(protocolstest.HealthRecorder)
	w, err := conn.(protocols.TargetOpener).OpenTarget(own, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, h
}

func command(v sample.Value) protocols.Command {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	return protocols.Command{Value: v, Time: at, Version: 17, ValidUntil: at.Add(10 * time.Minute)}
}

func TestFilesByteForByte(t *testing.T) {
	for _, c := range []struct {
		change func(*Config, *Target)
		kind   sample.Kind
		v      sample.Value
		want   string
	}{
		{func(*Config, *Target) {}, sample.Float64, sample.FloatValue(41.5),
			"target,value,unit,quality,time,version,valid_until\r\nsp1,41.5,kW,Good,2026-11-28T12:00:00Z,17,2026-11-28T12:10:00Z\r\n"},
		{func(c *Config, _ *Target) { c.Delimiter, c.Decimal, c.BOM = ";", ",", true }, sample.Float64, sample.FloatValue(-1234.5),
			"\xef\xbb\xbftarget;value;unit;quality;time;version;valid_until\r\nsp1;-1234,5;kW;Good;2026-11-28T12:00:00Z;17;2026-11-28T12:10:00Z\r\n"},
		{func(_ *Config, o *Target) { o.Columns = []string{"quality", "value"} }, sample.String, sample.StringValue(`say "a", b`),
			"quality,value\r\nGood,\"say \"\"a\"\", b\"\r\n"},
		{func(c *Config, o *Target) { o.Columns, c.Delimiter = []string{"value", "quality"}, "tab" }, sample.String, sample.StringValue(`=cmd|' /C calc'!A0`),
			"value\tquality\r\n'=cmd|' /C calc'!A0\tGood\r\n"},
		{func(_ *Config, o *Target) { o.Columns = []string{"value", "quality"} }, sample.String, sample.StringValue(`'=1`), "value,quality\r\n''=1,Good\r\n"},
		{func(_ *Config, o *Target) { o.Columns = []string{"value", "quality"} }, sample.String, sample.StringValue("＝1"), "value,quality\r\n'＝1,Good\r\n"},
		{func(_ *Config, o *Target) { o.Columns = []string{"value", "quality"} }, sample.String, sample.StringValue(""), "value,quality\r\n,Good\r\n"},
		{func(_ *Config, o *Target) { o.Columns = []string{"value", "quality"} }, sample.Int64, sample.IntValue(-5), "value,quality\r\n-5,Good\r\n"},
	} {
		cfg, _ := testConfig(t)
		own := described("sp1", "kW", c.kind)
		c.change(cfg, own)
		for _, f := range append(cfg.Validate(&protocols.SourceConfig{}), own.Validate(c.kind)...) {
			t.Errorf("%+v", f)
		}
		w, _ := openTarget(t, cfg, own)
		if err := w.Write(t.Context(), command(c.v)); err != nil {
			t.Error(err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(cfg.Dir, "sp1.csv"))
		if err != nil || string(got) != c.want {
			t.Errorf("the file is\n%q, want\n%q (%v)", got, c.want, err)
		}
		if r, err := w.Read(t.Context()); err != nil || r.Value != c.v || r.Quality != sample.Good {
			t.Errorf("reads %+v, %v", r, err)
		}
		for _, p := range []string{"=", "+", "-", "@"} {
			if _, text, _ := strings.Cut(string(got), "\n"); c.kind == sample.String && strings.HasPrefix(text, p) {
				t.Errorf("a spreadsheet takes it for a formula: %q", text)
			}
		}
	}
}

// Whoever may write to the folder can put a pipe in the file's place. Opening
// one waits for somebody at its other end, who never comes.
func TestAPipeInTheFilesPlace(t *testing.T) {
	cfg, _ := testConfig(t)
	w, _ := openTarget(t, cfg, described("sp1", "kW", sample.Float64))
	path := filepath.Join(cfg.Dir, "sp1.csv")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if r, err := w.Read(ctx); err == nil || errors.Is(err, errLate) || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("reads %+v, %v", r, err)
	}
	if err := w.Write(t.Context(), command(sample.FloatValue(1))); err != nil {
		t.Errorf("a write, which takes its place: %v", err)
	}
	if r, err := w.Read(t.Context()); err != nil || r.Value != sample.FloatValue(1) {
		t.Errorf("reads %+v, %v", r, err)
	}
}

// Files appear as a whole, with their rights, and nothing else stays behind.
func TestRightsAndLeftovers(t *testing.T) {
	cfg, disk := testConfig(t)
	cfg.Mode = "0664"
	if g, err := user.LookupGroupId(strconv.Itoa(os.Getgid())); err == nil {
		cfg.Group = g.Name
	}
	left := filepath.Join(cfg.Dir, ".sp1.csv.part")
	if err := os.WriteFile(left, []byte("half a fi"), 0o400); err != nil {
		t.Fatal(err)
	}
	w, _ := openTarget(t, cfg, described("sp1", "", sample.Float64))
	if err := w.Write(t.Context(), command(sample.FloatValue(1))); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, "sp1.csv"))
	if err != nil || info.Mode() != 0o664 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	disk.set(stepSync, syscall.EIO)
	if err := w.Write(t.Context(), command(sample.FloatValue(2))); protocols.OutcomeOf(err) != protocols.Unsent {
		t.Errorf("got %v", err)
	}
	list, err := os.ReadDir(cfg.Dir)
	if err != nil || len(list) != 1 {
		t.Errorf("in the folder: %v, %v", list, err)
	}
	if r, err := w.Read(t.Context()); err != nil || r.Value != sample.FloatValue(1) {
		t.Errorf("reads %+v, %v", r, err)
	}
	cfg.Group = "no such group"
	if _, err := cfg.Open(protocolstest.Settings()); err == nil || !strings.Contains(err.Error(), "group no such group is not known here") {
		t.Errorf("got %v", err)
	}
}

// What the disk says becomes what the mirror has to know, and one line.
func TestFaultsOfTheDisk(t *testing.T) {
	cfg, disk := testConfig(t)
	w, h := openTarget(t, cfg, described("sp1", "", sample.Float64))
	for _, c := range []struct {
		at   step
		err  error
		want protocols.WriteOutcome
		text string
	}{
		{stepOpen, syscall.ENOENT, protocols.Unsent, "make the folder, or mount its share"},
		{stepOpen, syscall.ENOTDIR, protocols.Unsent, "make the folder"},
		{stepOpen, syscall.EACCES, protocols.Rejected, "let the user millrace write there"},
		{stepCreate, syscall.EROFS, protocols.Rejected, "it is read-only"},
		{stepCreate, syscall.ENOSPC, protocols.Unsent, "the disk is full: free space there"},
		{stepWrite, syscall.ENOSPC, protocols.Unsent, "the disk is full: free space there"},
		{stepWrite, syscall.EDQUOT, protocols.Unsent, "the disk is full: free space there"},
		{stepWrite, syscall.EPERM, protocols.Rejected, "by a group that he is in"},
		{stepSync, syscall.EIO, protocols.Unsent, "look at the folder and its disk"},
		{stepRename, syscall.EACCES, protocols.Rejected, "let the user millrace write there"},
		{stepRename, syscall.EIO, protocols.Unknown, "look at the folder and its disk"},
		{stepSyncDir, syscall.EIO, protocols.Unknown, "look at the folder and its disk"},
	} {
		disk.set(c.at, c.err)
		err := w.Write(t.Context(), command(sample.FloatValue(2)))
		disk.set(c.at, nil)
		if protocols.OutcomeOf(err) != c.want || err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") ||
			!strings.HasPrefix(err.Error(), "file sp1.csv in "+cfg.Dir+": "+string(c.at)+": ") {
			t.Errorf("%s: %v: got %s: %v", c.at, c.err, protocols.OutcomeOf(err), err)
		}
		if !h.IsDown() {
			t.Errorf("%s: health %v", c.at, h.Changes())
		}
	}
	if err := w.Write(t.Context(), command(sample.FloatValue(3))); err != nil || !h.IsUp() {
		t.Errorf("afterwards: %v, health %v", err, h.Changes())
	}
}

// After a restart what stands there is marked as stale; what is not ours to
// read is named.
func TestStaleAfterARestart(t *testing.T) {
	cfg, disk := testConfig(t)
	own := described("sp1", "kW", sample.Float64)
	first, _ := openTarget(t, cfg, own)
	if r, err := first.Read(t.Context()); err != nil || !r.Quality.IsBad() || r.Value.Kind() != sample.Null {
		t.Errorf("before the first write: %+v, %v", r, err)
	}
	cmd := command(sample.FloatValue(41.5))
	cmd.Quality = sample.Uncertain
	if err := first.Write(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	w, _ := openTarget(t, cfg, own)
	n := disk.writes()
	for range 2 {
		if err := w.Tell(t.Context(), protocols.State{}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := w.Read(t.Context()); err != nil || !r.Quality.IsBad() || r.Value != cmd.Value || r.Version != 17 || disk.writes() != n+1 {
		t.Errorf("reads %+v, %v, after %d writes", r, err, disk.writes()-n)
	}
	for _, valid := range []bool{false, true} {
		if err := first.Tell(t.Context(), protocols.State{Valid: valid}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := first.Read(t.Context()); err != nil || r.Quality != sample.Uncertain {
		t.Errorf("valid again, it reads %+v, %v", r, err)
	}
	// An importer that takes the file away does not get it back as stale.
	path := filepath.Join(cfg.Dir, "sp1.csv")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := w.Tell(t.Context(), protocols.State{Valid: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Tell(t.Context(), protocols.State{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is there again: %v", err)
	}
	for _, text := range []string{"", "a,b\r\n", "target,value,unit,quality,time,version,valid_until\r\nsp1,1,kW,Good,yesterday,1,\r\n", strings.Repeat("x", maxFile+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := w.Read(t.Context()); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "sp1.csv") {
			t.Errorf("%.20q reads as %+v, %v", text, r, err)
		}
	}
}

func TestValidate(t *testing.T) {
	c := &Config{Dir: "drop", Delimiter: ",", Decimal: ",", Mode: "0666"}
	var got []string
	for _, f := range c.Validate(&protocols.SourceConfig{Tags: []protocols.Tag{{}}}) {
		got = append(got, f.Path)
	}
	if text := strings.Join(got, " "); text != "connection.dir connection.decimal connection.mode tags" {
		t.Errorf("got %s", text)
	}
	if _, err := new(folder).OpenSource(nil, nil); !errors.Is(err, protocols.ErrNoSource) {
		t.Errorf("OpenSource: %v", err)
	}
}

func FuzzForm(f *testing.F) {
	f.Add("=1,5;\"", 1.5, int64(-3), true)
	f.Fuzz(func(t *testing.T, text string, x float64, i int64, german bool) {
		form := form{delimiter: ',', decimal: "."}
		if german {
			form.delimiter, form.decimal, form.bom = ';', ",", true
		}
		for _, v := range []sample.Value{sample.StringValue(text), sample.FloatValue(x), sample.IntValue(i), sample.BoolValue(german)} {
			v, err := fit(v, v.Kind())
			if err != nil {
				continue
			}
			r := row{target: "sp", value: v, unit: "%", version: 1}
			data, err := form.encode(allColumns(), r)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := form.decode(data, allColumns(), v.Kind()); err != nil || got != r {
				t.Errorf("%q reads back as %+v, %v, want %+v", data, got, err, r)
			}
		}
	})
}

// Whoever reads while files are replaced finds a whole one each time.
func TestReadersFindWholeFiles(t *testing.T) {
	cfg, _ := testConfig(t)
	own := described("sp1", "", sample.String)
	w, _ := openTarget(t, cfg, own)
	text := func(n int) string { return strings.Repeat(strconv.Itoa(n%10), 1+n%2*8000) }
	if err := w.Write(t.Context(), command(sample.StringValue(text(0)))); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	read := make(chan int)
	go func() {
		n := 0
		defer func() { read <- n }()
		for {
			select {
			case <-done:
				return
			default:
			}
			v, quality, err := shown(filepath.Join(cfg.Dir, "sp1.csv"), sample.String)
			if err != nil || quality != "Good" || v.Str() != strings.Repeat(v.Str()[:1], len(v.Str())) || len(v.Str()) != 1 && len(v.Str()) != 8001 {
				t.Errorf("a reader finds %d bytes, %s, %v", len(v.Str()), quality, err)
				return
			}
			n++
		}
	}()
	for n := range 100 {
		if err := w.Write(t.Context(), command(sample.StringValue(text(n)))); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	if n := <-read; n == 0 {
		t.Error("nothing was read meanwhile")
	}
}

// A share whose server is away holds up nobody but the goroutine that uses it.
// What was not renamed by then is not renamed later.
func TestAFolderThatHangs(t *testing.T) {
	for _, c := range []struct {
		at     step
		want   protocols.WriteOutcome
		stands sample.Value // afterwards
	}{
		{stepOpen, protocols.Unsent, sample.FloatValue(1)}, {stepSync, protocols.Unsent, sample.FloatValue(1)},
		{stepRename, protocols.Unknown, sample.FloatValue(2)}, {stepSyncDir, protocols.Unknown, sample.FloatValue(2)},
	} {
		cfg, disk := testConfig(t)
		w, h := openTarget(t, cfg, described("sp1", "", sample.Float64))
		if err := w.Write(t.Context(), command(sample.FloatValue(1))); err != nil {
			t.Fatal(err)
		}
		hang := make(chan struct{})
		disk.mu.Lock()
		disk.hang = map[step]chan struct{}{c.at: hang}
		disk.mu.Unlock()
		limited, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := w.Write(limited, command(sample.FloatValue(2)))
		if protocols.OutcomeOf(err) != c.want || err == nil || !strings.Contains(err.Error(), "does not answer in time: look at the share's server") || strings.Contains(err.Error(), "\n") || !h.IsDown() {
			t.Errorf("%s: got %s: %v, health %v", c.at, protocols.OutcomeOf(err), err, h.Changes())
		}
		cancel()
		limited, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := w.Write(limited, command(sample.FloatValue(3))); protocols.OutcomeOf(err) != protocols.Unsent || !strings.Contains(err.Error(), "an earlier access has not ended") {
			t.Errorf("%s: the next one: %s: %v", c.at, protocols.OutcomeOf(err), err)
		}
		cancel()
		close(hang)
		if r, err := w.Read(t.Context()); err != nil || r.Value != c.stands {
			t.Errorf("%s: afterwards it reads %+v, %v", c.at, r, err)
		}
	}
}
