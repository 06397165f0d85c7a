package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// syncs counts the calls of fsync and fdatasync on one volume, by the kernel's
// trace point for them.
type syncs struct {
	root, instance string
}

// watchSyncs starts to count. An error says what the kernel lacks.
func watchSyncs(ctx context.Context, dir string, v *volume) (*syncs, error) {
	text, err := os.ReadFile("/sys/block/" + v.device + "/dev")
	if err != nil {
		return nil, err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("device number of %s: %w", v.device, err)
	}
	s := &syncs{root: filepath.Join(dir, "tracefs")}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	if _, err := command(ctx, "mount", "-t", "tracefs", "tracefs", s.root); err != nil {
		return nil, err
	}
	s.instance = filepath.Join(s.root, "instances", filepath.Base(filepath.Dir(v.dir)))
	event := filepath.Join(s.instance, "events", "ext4", "ext4_sync_file_enter")
	err = os.Mkdir(s.instance, 0o700)
	if err == nil {
		// The kernel's device number: 20 bits of minor below the major.
		err = errors.Join(
			os.WriteFile(filepath.Join(event, "filter"), fmt.Appendf(nil, "dev == %d", major<<20|minor), 0o600),
			os.WriteFile(filepath.Join(event, "enable"), []byte("1"), 0o600))
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// count is how many calls there were since watchSyncs.
func (s *syncs) count() (n float64, err error) {
	f, err := os.Open(filepath.Join(s.instance, "trace"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "ext4_sync_file_enter:") {
			n++
		}
	}
	return n, lines.Err()
}

func (s *syncs) close() error {
	err := os.Remove(s.instance)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	_, unmount := command(context.Background(), "umount", s.root)
	return errors.Join(err, unmount)
}
