package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// diskSize is that of the file system that fills up, in bytes.
const diskSize = 3 << 20

func diskFullRow() Row {
	return Row{
		Name: "disk-full", What: "the disk is filled and freed under load: no crash, what is lost is declared, acknowledged sources are refused meanwhile",
		Short: 1, Medium: 15, Full: 500, Needs: []Need{needRoot()}, Run: runDiskFull,
	}
}

// runDiskFull runs a gateway on a small tmpfs that others fill.
func runDiskFull(ctx context.Context, t *Trial) (n int, err error) {
	disk, err := t.Sub("disk")
	if err != nil {
		return 1, err
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		return 1, fmt.Errorf("mount a tmpfs: %w", err)
	}
	// Detached, it goes with the last open file, whatever becomes of the trial.
	defer func() { err = errors.Join(err, syscall.Unmount(disk, syscall.MNT_DETACH)) }()
	p, err := NewPlant("cloud")
	if err != nil {
		return 1, err
	}
	cloud := newCloud(t.Rand)
	p.Cloud = cloud.answer
	c := t.childConfig()
	c.Spool = filepath.Join(disk, "spool")
	if t.Rand.IntN(2) == 0 {
		cloud.become(cloudDown)
	}
	k, err := p.start(t.self, c)
	if err != nil {
		return 1, err
	}
	if err := k.waitReady(ctx); err != nil {
		return 1, err
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	load{Producers: 2, Tags: 3, Batch: 3, Window: 2, Payload: 1500, Pause: 5 * time.Millisecond}.run(loading, k, t.Rand)
	for range 1 + t.Rand.IntN(2) {
		pause(ctx, time.Duration(t.Rand.IntN(300))*time.Millisecond)
		ballast := filepath.Join(disk, "ballast")
		if err := fillUp(ballast); err != nil {
			return 1, err
		}
		pause(ctx, time.Duration(100+t.Rand.IntN(700))*time.Millisecond)
		if err := os.Remove(ballast); err != nil {
			return 1, err
		}
	}
	stop()
	cloud.become(cloudWell)
	select {
	case <-k.done:
		return 1, fmt.Errorf("the gateway ended: %s", k.ending())
	default:
	}
	if err := k.settle(ctx); err != nil {
		return 1, err
	}
	return 1, p.Ledger.Check(DeclaredLoss)
}

// fillUp writes a file until its disk is full.
func fillUp(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	chunk := make([]byte, 64<<10)
	for len(chunk) > 0 {
		if _, err = f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			chunk, err = chunk[:len(chunk)/2], nil
		} else if err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

// pause waits, or returns early with ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
