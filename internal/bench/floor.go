package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// floorEnv makes the program be the bare loop: it holds the slaves' addresses.
const floorEnv = "MILLRACE_BENCH_FLOOR"

const (
	floorRegisters = 40
	floorPeriod    = 10 * time.Millisecond
)

// floor measures what the same requests cost a bare loop in a process of its
// own: a goroutine per slave that writes a request and reads the answer, every
// 10 ms, and does nothing with it. It is the system's share of the figure, in
// µs per sample.
func floor(ctx context.Context, addresses []string, d time.Duration) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-for", d.String())
	cmd.Env = append(os.Environ(), floorEnv+"="+strings.Join(addresses, ","))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("bare loop: %w", err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// runFloor is the bare loop. It prints its processor time per sample, in µs.
func runFloor(addresses []string, d time.Duration) error {
	var loops sync.WaitGroup
	errs := make(chan error, len(addresses))
	before := rusage()
	start := time.Now().Truncate(floorPeriod).Add(floorPeriod)
	rounds := int(d / floorPeriod)
	for _, address := range addresses {
		loops.Go(func() { errs <- poll(address, start, rounds) })
	}
	loops.Wait()
	for range addresses {
		if err := <-errs; err != nil {
			return err
		}
	}
	samples := rounds * len(addresses) * floorRegisters / 2
	fmt.Println(float64((rusage() - before).Nanoseconds()) / 1e3 / float64(samples))
	return nil
}

func poll(address string, start time.Time, rounds int) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	// Read holding registers, MODBUS Messaging on TCP/IP V1.0b, 3.1.3.
	request := []byte{0, 0, 0, 0, 0, 6, 1, 3, 0, 0, 0, floorRegisters}
	answer := make([]byte, 260)
	for i := range rounds {
		time.Sleep(time.Until(start.Add(time.Duration(i) * floorPeriod)))
		binary.BigEndian.PutUint16(request, uint16(i))
		if _, err := c.Write(request); err != nil {
			return err
		}
		for have := 0; have < 9+2*floorRegisters; {
			n, err := c.Read(answer[have:])
			if err != nil {
				return err
			}
			have += n
		}
	}
	return nil
}

func rusage() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
