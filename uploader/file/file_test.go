package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/uploader"
	"millrace/uploader/sinktest"
)

// manual is a clock that a test sets.
type manual struct{ now time.Time }

func (m *manual) Now() time.Time { return m.now }

// failing is the real file system, of which the call with a label fails.
type failing struct {
	osFS
	fail map[string]error
	seen map[string]int
}

func newFailing() *failing { return &failing{fail: map[string]error{}, seen: map[string]int{}} }

func (f *failing) call(label string) error {
	f.seen[label]++
	return f.fail[label]
}

func (f *failing) MkdirAll(dir string) error {
	return errors.Join(f.call("mkdir"), f.osFS.MkdirAll(dir))
}

func (f *failing) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := f.call("readdir"); err != nil {
		return nil, err
	}
	return f.osFS.ReadDir(dir)
}

func (f *failing) Open(path string, flag int) (diskFile, error) {
	if err := f.call("open"); err != nil {
		return nil, err
	}
	d, err := f.osFS.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &failingFile{d, f}, nil
}

func (f *failing) Rename(from, to string) error {
	if err := f.call("rename"); err != nil {
		return err
	}
	return f.osFS.Rename(from, to)
}

func (f *failing) Remove(path string) error {
	if err := f.call("remove"); err != nil {
		return err
	}
	return f.osFS.Remove(path)
}

func (f *failing) SyncDir(dir string) error {
	return errors.Join(f.call("syncdir"), f.osFS.SyncDir(dir))
}

type failingFile struct {
	diskFile
	f *failing
}

func (f *failingFile) Write(b []byte) (int, error) {
	if err := f.f.call("write"); err != nil {
		n, _ := f.diskFile.Write(b[:len(b)/2]) // a disk that fills up takes a part
		return n, err
	}
	return f.diskFile.Write(b)
}

func (f *failingFile) Sync() error { return errors.Join(f.f.call("sync"), f.diskFile.Sync()) }

func (f *failingFile) Truncate(n int64) error {
	if err := f.f.call("truncate"); err != nil {
		return err
	}
	return f.diskFile.Truncate(n)
}

func (f *failingFile) Close() error { return errors.Join(f.f.call("close"), f.diskFile.Close()) }

func config(t *testing.T) *Config {
	c := Kind{}.NewConfig().(*Config)
	c.Dir = filepath.Join(t.TempDir(), "out")
	return c
}

func open(t *testing.T, c *Config, m *manual) (*sink, *failing) {
	t.Helper()
	s, err := c.Open(uploader.Settings{Name: "disk", Log: sinktest.Log(), Clock: m})
	if err != nil {
		t.Fatal(err)
	}
	f := newFailing()
	s.(*sink).fs = f
	t.Cleanup(func() { s.Close() })
	return s.(*sink), f
}

func clockAt() *manual { return &manual{time.Date(2026, 11, 23, 11, 26, 0, 0, time.UTC)} }

// list returns the directory's files but the lock.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Name() != lockName {
			out = append(out, e.Name())
		}
	}
	return out
}

// contents reads all whole records of a directory's files, by block number.
func contents(t *testing.T, dir string) map[uint64]int {
	t.Helper()
	out := map[uint64]int{}
	for _, name := range list(t, dir) {
		err := ReadFile(filepath.Join(dir, name), func(data []byte) error {
			for n := range uint64(200) {
				if b := sinktest.Opaque(n); bytes.Equal(b.Data, data) {
					out[n]++
					return nil
				}
			}
			return fmt.Errorf("a record of %d bytes is no block", len(data))
		})
		var torn *TornError
		if err != nil && !(errors.As(err, &torn) && strings.HasSuffix(name, partSuffix)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	return out
}

func send(s *sink, numbers ...uint64) error {
	var blocks []uploader.Block
	for _, n := range numbers {
		blocks = append(blocks, sinktest.Opaque(n))
	}
	return errors.Join(s.Send(context.Background(), blocks)...)
}

func TestSuite(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			c := config(t)
			return &sinktest.Endpoint{Config: c,
				Key: func(b *uploader.Block) string { return string(b.Data) },
				Stored: func(t *testing.T) map[string][]byte {
					out := map[string][]byte{}
					for _, name := range list(t, c.Dir) {
						err := ReadFile(filepath.Join(c.Dir, name), func(data []byte) error {
							out[string(data)] = bytes.Clone(data)
							return nil
						})
						if err != nil {
							t.Fatal(err)
						}
					}
					return out
				},
				Set: map[sinktest.Fault]func(bool){
					// A file stands where the directory should be.
					sinktest.Missing: func(on bool) {
						os.RemoveAll(c.Dir)
						if on {
							os.WriteFile(c.Dir, nil, 0o600)
						} else {
							os.Mkdir(c.Dir, 0o700)
						}
					},
				}}
		},
	})
}

// lines are the JSON Lines of a block's samples, each once, in their order.
func lines(b *block.Block) []byte {
	var out []byte
	for one := range b.All() {
		out = append(sample.AppendJSONLine(out, &one), '\n')
	}
	return out
}

func TestSuiteInJSONLines(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			c := config(t)
			c.Format = FormatJSONL
			return &sinktest.Endpoint{Config: c,
				Key: func(b *uploader.Block) string { return sinktest.PackedTag(b.Number) },
				Bytes: func(b *uploader.Block) []byte {
					d, err := block.NewDecoder()
					if err != nil {
						t.Fatal(err)
					}
					decoded, err := d.Decode(b.Data)
					if err != nil {
						t.Fatal(err)
					}
					return lines(decoded)
				},
				Stored: func(t *testing.T) map[string][]byte {
					out := map[string][]byte{}
					for _, name := range list(t, c.Dir) {
						text, err := os.ReadFile(filepath.Join(c.Dir, name))
						if err != nil {
							t.Fatal(err)
						}
						for line := range bytes.Lines(text) {
							one, err := sample.ParseJSONLine(line)
							if err != nil {
								t.Fatal(err)
							}
							if !bytes.Contains(out[one.Tag], line) { // keyed by tag and time
								out[one.Tag] = append(out[one.Tag], line...)
							}
						}
					}
					return out
				}}
		},
		Block: sinktest.Packed,
		// What is no block has no lines.
		TooLarge: sinktest.Opaque,
	})
}

func TestTornLineIsCut(t *testing.T) {
	c := config(t)
	c.Format = FormatJSONL
	s, _ := open(t, c, clockAt())
	first := sinktest.Packed(1)
	if err := s.Send(t.Context(), []uploader.Block{first})[0]; err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(c.Dir, list(t, c.Dir)[0])
	s.lock.Close() // as a crash would
	s.lock = nil
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(whole, `{"tag":"plant/me`...), 0o600); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, c, clockAt())
	if err := again.Send(t.Context(), []uploader.Block{sinktest.Packed(2)})[0]; err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(strings.TrimSuffix(name, partSuffix))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, whole) {
		t.Errorf("after the crash the file ends with %q", got[max(len(got)-60, 0):])
	}
}

func TestRotatesBySizeAndAge(t *testing.T) {
	m, c := clockAt(), config(t)
	c.RotateSize, c.RotateAge = 64<<10, time.Minute
	s, _ := open(t, c, m)
	for n := range uint64(30) { // 3000 bytes each: two files are full, one is not
		if err := send(s, n); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := list(t, c.Dir), []string{"20261123T112600.000Z-000000000001.mrb", "20261123T112600.000Z-000000000002.mrb.part"}; !slices.Equal(got, want) {
		t.Errorf("files by size: %q, want %q", got, want)
	}
	m.now = m.now.Add(61 * time.Second)
	if err := send(s, 30); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"20261123T112600.000Z-000000000001.mrb", "20261123T112600.000Z-000000000002.mrb", "20261123T112701.000Z-000000000003.mrb"}
	if got := list(t, c.Dir); !slices.Equal(got, want) {
		t.Errorf("files by age: %q, want %q", got, want)
	}
	for n := range uint64(31) {
		if got := contents(t, c.Dir)[n]; got != 1 {
			t.Errorf("block %d is there %d times", n, got)
		}
	}
}

func TestMaxFilesKeepsTheNewest(t *testing.T) {
	m, c := clockAt(), config(t)
	c.RotateAge, c.MaxFiles = time.Second, 3
	s, _ := open(t, c, m)
	for n := range uint64(10) {
		if err := send(s, n); err != nil {
			t.Fatal(err)
		}
		m.now = m.now.Add(-time.Hour) // names follow the number, whatever the clock does
		s.cur.opened = m.now.Add(-time.Minute)
	}
	var numbers []string
	for _, name := range list(t, c.Dir) {
		numbers = append(numbers, name[len(name)-len("07.mrb"):])
	}
	slices.Sort(numbers)
	if got, want := strings.Join(numbers, " "), "07.mrb 08.mrb 09.mrb b.part"; !strings.HasPrefix(got, "07.mrb 08.mrb 09.mrb") || len(numbers) != 4 {
		t.Errorf("files %q, want %q", got, want)
	}
}

// Whatever call fails, nothing is confirmed that is not on the disk, and what
// was confirmed stays; once the fault is over, everything arrives.
func TestEveryCallMayFail(t *testing.T) {
	for _, label := range []string{"mkdir", "readdir", "open", "write", "sync", "syncdir", "rename", "close"} {
		for _, second := range []string{"", "truncate", "rename", "close", "remove"} {
			t.Run(label+" "+second, func(t *testing.T) {
				m, c := clockAt(), config(t)
				c.RotateAge, c.MaxFiles = time.Second, 100
				s, f := open(t, c, m)
				confirmed := map[uint64]bool{}
				for n := range uint64(12) {
					if n == 4 {
						f.fail[label] = syscall.EIO
						if second != "" {
							f.fail[second] = syscall.EIO
						}
						s.lock.Close() // so that taking the directory is tried too
						s.lock = nil
						if s.cur != nil {
							s.cur.f.Close()
							s.cur = nil
						}
					}
					if n == 8 {
						clear(f.fail)
					}
					err := send(s, n)
					if confirmed[n] = err == nil; n >= 8 && err != nil {
						t.Errorf("block %d after the fault is over: %v", n, err)
					}
					m.now = m.now.Add(2 * time.Second)
				}
				for n := range uint64(12) {
					if !confirmed[n] {
						if err := send(s, n); err != nil {
							t.Errorf("block %d, sent again: %v", n, err)
						}
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				got := contents(t, c.Dir)
				for n := range uint64(12) {
					if got[n] == 0 {
						t.Errorf("block %d was confirmed (at once: %v) and is not there", n, confirmed[n])
					}
				}
				for _, name := range list(t, c.Dir) {
					if strings.HasSuffix(name, partSuffix) {
						t.Errorf("%s is left unfinished", name)
					}
				}
				if f.seen[label] == 0 {
					t.Errorf("the call %q was never made", label)
				}
			})
		}
	}
}

func TestFullDiskIsHeldAndLeavesNoHalfBlock(t *testing.T) {
	c := config(t)
	s, f := open(t, c, clockAt())
	if err := send(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	f.fail["write"] = syscall.ENOSPC
	err := send(s, 3)
	if uploader.Classify(err) != uploader.Hold || !strings.Contains(err.Error(), "make room") {
		t.Errorf("a full disk gives %v", err)
	}
	clear(f.fail)
	if got := contents(t, c.Dir); len(got) != 2 {
		t.Errorf("on the disk are blocks %v", got)
	}
	if err := send(s, 3); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, c.Dir); got[1] != 1 || got[2] != 1 || got[3] != 1 {
		t.Errorf("on the disk are blocks %v", got)
	}
}

// A crash may leave any prefix of what was written after the last fsync.
func TestTornTailIsCutAtAnyByte(t *testing.T) {
	c := config(t)
	s, _ := open(t, c, clockAt())
	if err := send(s, 1, 2); err != nil {
		t.Fatal(err)
	}
	name := list(t, c.Dir)[0]
	whole, err := os.ReadFile(filepath.Join(c.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	first := len(magic) + recordHeader + 3000
	for cut := 0; cut <= len(whole); cut += 1 + cut/40 {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		torn := bytes.Clone(whole[:cut])
		if cut%3 == 0 && cut > len(magic)+recordHeader {
			torn[cut-1] ^= 0x40 // or other bytes than were meant
		}
		if err := os.WriteFile(filepath.Join(dir, name), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		again := *c
		again.Dir = dir
		r, _ := open(t, &again, clockAt())
		if err := send(r, 3); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		got := contents(t, dir)
		if cut > first && got[1] != 1 || got[3] != 1 {
			t.Errorf("cut at %d: blocks %v", cut, got)
		}
		for _, n := range list(t, dir) {
			if strings.HasSuffix(n, partSuffix) || !strings.Contains(n, "-000000000002") && !strings.Contains(n, "-000000000001") {
				t.Errorf("cut at %d: file %s", cut, n)
			}
		}
	}
}

func TestTwoSinksInOneDirectory(t *testing.T) {
	c := config(t)
	a, _ := open(t, c, clockAt())
	b, _ := open(t, c, clockAt())
	if err := send(a, 1); err != nil {
		t.Fatal(err)
	}
	if err := send(b, 2); uploader.Classify(err) != uploader.Hold || !strings.Contains(err.Error(), "another sink or process") {
		t.Errorf("the second sink gets %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := send(b, 2); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
}

func TestReadFileRefusesHostileFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for what, content := range map[string]string{
		"empty":                "",
		"another format":       "SQLite format 3\x00",
		"a length beyond all":  magic + "\xff\xff\xff\xff\x00\x00\x00\x00abc",
		"a length beyond file": magic + "\xff\xff\xff\x0f\x00\x00\x00\x00abc",
		"a wrong checksum":     magic + "\x03\x00\x00\x00\x00\x00\x00\x00abc",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var torn *TornError
		if err := ReadFile(path, func([]byte) error { return errors.New("called") }); !errors.As(err, &torn) {
			t.Errorf("%s: %v, want a *TornError", what, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"dir": func(c *Config) { c.Dir = "" }, "format": func(c *Config) { c.Format = "csv" }, "rotate_size": func(c *Config) { c.RotateSize = 1 },
		"rotate_age": func(c *Config) { c.RotateAge = 0 }, "max_files": func(c *Config) { c.MaxFiles = -1 },
	} {
		c := config(t)
		change(c)
		if faults := c.Validate(); len(faults) != 1 || faults[0].Path != want || faults[0].Hint == "" {
			t.Errorf("faults are %+v, want one at %s with a hint", faults, want)
		}
	}
}
