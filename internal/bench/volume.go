package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// sectorBytes is the unit of the kernel's block statistics, whatever the
// device's own sectors are: Documentation/block/stat.rst.
const sectorBytes = 512

// volume is a file system of its own, ext4 with its defaults in an image file,
// so that the kernel counts what is written to it and nothing else.
type volume struct {
	dir    string // where it is mounted
	device string // the loop device: "loop0"
}

// newVolume makes and mounts a volume. An error says what this machine lacks:
// it takes root, a loop device and mkfs.ext4.
func newVolume(ctx context.Context, dir string, size int64) (v *volume, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("it takes root to mount a file system")
	}
	image := filepath.Join(dir, "image")
	v = &volume{dir: filepath.Join(dir, "volume")}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, size); err != nil {
		return nil, err
	}
	// The tables are written now, not by the kernel behind the measurement.
	if _, err := command(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image); err != nil {
		return nil, err
	}
	device, err := command(ctx, "losetup", "--find", "--show", image)
	if err != nil {
		return nil, err
	}
	if _, err := command(ctx, "mount", "-t", "ext4", device, v.dir); err != nil {
		_, detach := command(context.WithoutCancel(ctx), "losetup", "--detach", device)
		return nil, errors.Join(err, detach)
	}
	v.device = filepath.Base(device)
	return v, nil
}

// close unmounts the volume and lets the loop device go.
func (v *volume) close() error {
	_, unmount := command(context.Background(), "umount", v.dir)
	_, detach := command(context.Background(), "losetup", "--detach", "/dev/"+v.device)
	return errors.Join(unmount, detach)
}

// written is how many bytes the kernel has written to the volume: field 7 of
// /sys/block/DEVICE/stat is sectors.
func (v *volume) written() (float64, error) {
	path := "/sys/block/" + v.device + "/stat"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 7 {
		return 0, fmt.Errorf("%s has %d fields", path, len(fields))
	}
	sectors, err := strconv.ParseFloat(fields[6], 64)
	return sectors * sectorBytes, err
}

// command runs a program and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w %s", name, err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
