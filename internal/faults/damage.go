package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// page is bbolt's, in bytes.
const page = 4096

// damages is what can become of a file, by name.
func damages() map[string]func(rnd *rand.Rand, data []byte) []byte {
	return map[string]func(rnd *rand.Rand, data []byte) []byte{
		"bit flips": func(rnd *rand.Rand, data []byte) []byte {
			for range 1 + rnd.IntN(8) {
				data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
			}
			return data
		},
		"zeroed pages": func(rnd *rand.Rand, data []byte) []byte {
			for range 1 + rnd.IntN(3) {
				clear(pageOf(data, rnd))
			}
			return data
		},
		"swapped pages": func(rnd *rand.Rand, data []byte) []byte {
			a, b := pageOf(data, rnd), pageOf(data, rnd)
			n := min(len(a), len(b))
			for i := range n {
				a[i], b[i] = b[i], a[i]
			}
			return data
		},
		"copied page": func(rnd *rand.Rand, data []byte) []byte {
			copy(pageOf(data, rnd), pageOf(data, rnd))
			return data
		},
		"truncated":           func(rnd *rand.Rand, data []byte) []byte { return data[:rnd.IntN(len(data))] },
		"truncated at a page": func(rnd *rand.Rand, data []byte) []byte { return data[:rnd.IntN(len(data)/page+1)*page] },
		"garbage page": func(rnd *rand.Rand, data []byte) []byte {
			fill(rnd, pageOf(data, rnd))
			return data
		},
		"garbage sector": func(rnd *rand.Rand, data []byte) []byte {
			p := pageOf(data, rnd)
			fill(rnd, p[:min(512, len(p))])
			return data
		},
		"garbage": func(rnd *rand.Rand, data []byte) []byte {
			fill(rnd, data)
			return data
		},
		"small numbers in a page": func(rnd *rand.Rand, data []byte) []byte {
			// Page numbers and counts that look sane: what leads bbolt astray.
			p := pageOf(data, rnd)
			for range 1 + rnd.IntN(4) {
				at := rnd.IntN(max(len(p)-8, 1)) &^ 1
				if at+8 <= len(p) {
					p[at], p[at+1] = byte(rnd.IntN(64)), 0
				}
			}
			return data
		},
		"grown": func(rnd *rand.Rand, data []byte) []byte {
			more := make([]byte, rnd.IntN(4*page))
			fill(rnd, more)
			return append(data, more...)
		},
		"empty": func(*rand.Rand, []byte) []byte { return nil },
	}
}

func pageOf(data []byte, rnd *rand.Rand) []byte {
	at := rnd.IntN(len(data)/page+1) * page
	if at >= len(data) {
		at = 0
	}
	return data[at:min(at+page, len(data))]
}

func fill(rnd *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
}

// damage spoils one file and returns what was done.
func damage(rnd *rand.Rand, path string) (string, error) {
	all := damages()
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	name := names[rnd.IntN(len(names))]
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if len(data) == 0 {
		return "nothing: it is empty", nil
	}
	data = all[name](rnd, data)
	return fmt.Sprintf("%s of %s", name, filepath.Base(path)), os.WriteFile(path, data, 0o600)
}

// segments lists a spool's segments, oldest first.
func segments(dir string) ([]string, error) {
	list, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	slices.Sort(list)
	return list, err
}
