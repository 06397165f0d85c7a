// Command bench measures what the project promises and prints each figure
// beside its bar. It is run by `make bench`; it judges nothing in a test.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/internal/bench/codec"
)

// figure is one line of the report.
type figure struct {
	name     string
	measured float64
	unit     string
	bar      float64 // 0: printed for comparison only
	atLeast  bool    // the bar is a floor
	note     string
	missing  string // why it could not be measured here; empty where it was
}

func main() {
	seconds := flag.Duration("for", time.Minute, "how long each measurement of the whole gateway runs")
	large := flag.Float64("backlog", 10, "size of the large backlog, GB (10^9 bytes); it takes three times the room on the disk")
	only := flag.String("only", "", "run one group: codec, binary, modbus, mqtt, memory, append, backlog, flash, slowdisk, mirror, worker, query or archive")
	flag.Parse()
	if addresses := os.Getenv(floorEnv); addresses != "" {
		if err := runFloor(strings.Split(addresses, ","), *seconds); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *seconds, int64(*large*1e9), *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, d time.Duration, large int64, only string) error {
	b, err := newBench(ctx, d, large)
	if err != nil {
		return err
	}
	defer b.close()
	groups := []struct {
		name string
		run  func() ([]figure, error)
	}{
		{"codec", codecFigures},
		{"binary", b.binarySize},
		{"modbus", b.modbus},
		{"mqtt", b.mqtt},
		{"memory", b.memory},
		{"append", b.appendSealed},
		{"backlog", b.backlogs},
		{"flash", b.flash},
		{"slowdisk", b.slowDisk},
		{"mirror", b.mirror},
		{"worker", b.worker},
		{"query", b.queryDay},
		{"archive", b.archive},
	}
	for _, g := range groups {
		if only != "" && only != g.name {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		figures, err := g.run()
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		show(g.name, figures)
	}
	return nil
}

func codecFigures() ([]figure, error) {
	results, err := codec.Run()
	if err != nil {
		return nil, err
	}
	var out []figure
	for _, r := range results {
		out = append(out, figure{name: r.Name, measured: r.Measured, unit: r.Unit, bar: r.Bar, note: r.Note})
	}
	return out, nil
}

func show(group string, figures []figure) {
	fmt.Printf("\n%s\n", strings.ToUpper(group))
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	for _, f := range figures {
		if f.missing != "" {
			fmt.Fprintf(w, "  %s\tnot measured\t\t\t%s\n", f.name, f.missing)
			continue
		}
		bar, verdict := "", ""
		if f.bar != 0 {
			word, held := "at most", f.measured <= f.bar
			if f.atLeast {
				word, held = "at least", f.measured >= f.bar
			}
			bar = fmt.Sprintf("%s %.4g", word, f.bar)
			verdict = "holds"
			if !held {
				verdict = "MISSED"
			}
		}
		fmt.Fprintf(w, "  %s\t%.4g %s\t%s\t%s\t%s\n", f.name, f.measured, f.unit, bar, verdict, f.note)
	}
	// A terminal that is gone cannot be told.
	_ = w.Flush()
}
