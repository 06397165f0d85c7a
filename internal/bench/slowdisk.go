package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"millrace/internal/faults/faultfs"
	"millrace/sample/block"
	"millrace/uploader/file"
)

// slowSync is what every fsync takes longer on the slow disk.
const slowSync = 10 * time.Millisecond

// slowDisk measures what share of 200 samples/s is delivered where each fsync of
// the spool takes 10 ms more.
func (b *bench) slowDisk() (_ []figure, err error) {
	f := figure{name: fmt.Sprintf("200 samples/s, %s more on each fsync, delivered", slowSync), unit: "%", bar: 100, atLeast: true}
	disk, err := faultfs.Mount(filepath.Join(b.dir, "slow"))
	if err != nil {
		f.missing = err.Error()
		return []figure{f}, nil
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	disk.Judge(func(c faultfs.Call) faultfs.Verdict {
		if c.Kind == faultfs.Sync || c.Kind == faultfs.SyncDir {
			time.Sleep(slowSync)
		}
		return faultfs.Verdict{}
	})
	servers, err := slaves(2)
	if err != nil {
		return nil, err
	}
	defer closeAll(servers)
	var sources strings.Builder
	for i, s := range servers {
		sources.WriteString(meterConfig(fmt.Sprintf("m%02d", i), s.URL(), "1s", flashRate/len(servers)))
	}
	out := filepath.Join(b.dir, "slowdisk-out")
	d, err := b.start(setup{name: "slowdisk", sources: sources.String(), spool: filepath.Join(b.dir, "slow", "spool"), out: out})
	if err != nil {
		return nil, err
	}
	from := time.Now()
	pause(b.ctx, b.d)
	to := time.Now()
	st, err := d.status(b.ctx)
	d.stop()
	if err != nil {
		return nil, err
	}
	delivered, due, err := delivered(out, from, to)
	if err != nil {
		return nil, err
	}
	f.measured = 100 * float64(delivered) / float64(due)
	f.note = fmt.Sprintf("%d of %d samples in files after a stop; %.2g commits a second", delivered, due, float64(st.Spool.Commits)/to.Sub(from).Seconds())
	return []figure{f}, b.ctx.Err()
}

// delivered counts the Good samples that a file sink holds of a time at which
// every tag was polled once a second, and how many there should be.
func delivered(dir string, from, to time.Time) (got, due int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.mrb"))
	if err != nil {
		return 0, 0, err
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return 0, 0, err
	}
	polls := map[string]map[int64]bool{} // by tag, times in ns
	for _, path := range files {
		err := file.ReadFile(path, func(data []byte) error {
			b, err := dec.Decode(data)
			if err != nil {
				return err
			}
			for s := range b.All() {
				if _, isNumber := s.Value.Number(); !isNumber || !s.Quality.IsGood() || s.Time < from.UnixNano() || s.Time > to.UnixNano() {
					continue
				}
				if polls[s.Tag] == nil {
					polls[s.Tag] = map[int64]bool{}
				}
				polls[s.Tag][s.Time] = true
			}
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	if len(polls) < flashRate {
		return 0, 0, fmt.Errorf("%d tags were delivered of %d", len(polls), flashRate)
	}
	for tag, times := range polls {
		first, last := int64(math.MaxInt64), int64(0)
		for at := range times {
			first, last = min(first, at), max(last, at)
		}
		if late := to.Sub(time.Unix(0, last)); late > 1500*time.Millisecond {
			return 0, 0, fmt.Errorf("nothing of the last %s of tag %s was delivered", late, tag)
		}
		got += len(times)
		due += int(math.Round(float64(last-first)/1e9)) + 1
	}
	return got, due, nil
}
