package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/bytesize"
	"millrace/internal/command"
	"millrace/spool"
)

const defaultSpool = "/var/lib/millrace/spool"

var spoolCommand = command.Command{
	Name: "spool", Summary: "look into the spool, deal with dead letters, forget a sink",
	Usage: "ls|peek NUMBER|stats|dead ...|forget SINK [--socket PATH] [--dir DIR] [--json]",
	Help: `
Shows what waits in the spool, and deals with what a sink refused for good and
with sinks that are gone. A running gateway is asked by its local socket, since
it holds the files; where none runs, the files in --dir are used.

  ls               the blocks that some sink does not have yet, oldest first
  peek NUMBER      one block, decoded
  stats            sizes, backlog per sink, segments
  dead list        the dead letters: blocks that a sink refused for good, and why
  dead show ID     one dead letter, decoded
  dead retry ID    send it to its sink again, the same bytes (or --all)
  dead drop ID     remove it and declare its samples lost (or --all)
  forget SINK      drop a sink that the configuration does not name any more, and
                   what waits for it alone

Examples:
  millrace spool ls
  millrace spool peek 1042 | head
  millrace spool stats --dir /mnt/old/spool
  millrace spool dead list
  millrace spool dead retry --all
  millrace spool forget old-queue
`,
	Run: lookIntoSpool,
}

func lookIntoSpool(ctx context.Context, c *command.Call) error {
	socket := c.Flags.String("socket", defaultSocket, "the daemon's local `socket`")
	dir := c.Flags.String("dir", "", "use the files in this `folder` instead of asking a daemon (default "+defaultSpool+" where none runs)")
	asJSON := c.Flags.Bool("json", false, "print JSON")
	most := c.Flags.Int("max", 100, "list at most this many blocks")
	all := c.Flags.Bool("all", false, "dead retry and drop: all of them")
	config := c.Flags.String("config", defaultConfig, "forget, where no daemon runs: the configuration `file` that must not name the sink")
	args, err := c.ParseAll()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return command.Usagef("ls, peek, stats, dead or forget is missing")
	}
	src := &spoolSource{ctx: ctx, socket: *socket, dir: *dir, log: c.Stderr}
	defer src.close()
	switch args[0] {
	case "ls":
		return spoolList(c.Stdout, src, *most, *asJSON)
	case "stats":
		return spoolStats(c.Stdout, src, *asJSON)
	case "peek":
		if len(args) != 2 {
			return command.Usagef("peek takes one block's number; `millrace spool ls` shows them")
		}
		n, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil {
			return command.Usagef("%q is not a block's number; `millrace spool ls` shows them", args[1])
		}
		data, err := src.peek(n)
		if err != nil {
			return err
		}
		return printBlock(c.Stdout, data, formatFor(*asJSON))
	case "dead":
		return spoolDead(c.Stdout, src, args[1:], *all, *asJSON)
	case "forget":
		if len(args) != 2 {
			return command.Usagef("forget takes one sink's name; `millrace spool stats` lists those that the spool knows")
		}
		return spoolForget(c.Stdout, src, args[1], *config, *asJSON)
	}
	return command.Usagef("%q is none of ls, peek, stats, dead and forget", args[0])
}

// spoolSource is a running daemon, or files.
type spoolSource struct {
	ctx         context.Context
	socket, dir string
	log         io.Writer
	files       *spool.Reader
	writer      *spool.Maintenance
}

// ask asks the daemon, unless a folder is given or no daemon runs; then it
// opens the files and returns false.
func (s *spoolSource) ask(path string, args url.Values, result any) (bool, error) {
	if s.dir == "" {
		err := control.Call(s.ctx, s.socket, path, args, result)
		if !errors.Is(err, control.ErrNotRunning) {
			return true, err
		}
		s.dir = defaultSpool
	}
	if s.files == nil {
		r, err := spool.OpenReadOnly(s.dir)
		if err != nil {
			return false, err
		}
		s.files = r
	}
	return false, nil
}

func (s *spoolSource) close() {
	if s.files != nil {
		// It was only read from.
		_ = s.files.Close()
	}
	if s.writer != nil {
		// Nothing was done with it.
		_ = s.writer.Close()
	}
}

func (s *spoolSource) list(most int) (out []gateway.Listed, err error) {
	asked, err := s.ask("/v1/spool/ls", url.Values{"max": {strconv.Itoa(most)}}, &out)
	if asked || err != nil {
		return out, err
	}
	return gateway.ListSpool(s.files, most)
}

func (s *spoolSource) stats() (out spool.Stats, err error) {
	asked, err := s.ask("/v1/spool/stats", nil, &out)
	if asked || err != nil {
		return out, err
	}
	return s.files.Stats(), nil
}

func (s *spoolSource) peek(n uint64) (out []byte, err error) {
	asked, err := s.ask("/v1/spool/peek", url.Values{"number": {strconv.FormatUint(n, 10)}}, &out)
	if asked || err != nil {
		return out, err
	}
	b, err := s.files.Peek(n)
	return b.Data, err
}

func spoolList(out io.Writer, src *spoolSource, most int, asJSON bool) error {
	blocks, err := src.list(most)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, blocks)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tSTREAM\tSEQ\tSAMPLES\tBYTES\tFIRST\tLAST\tWAITS FOR")
	for _, b := range blocks {
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", b.Number, b.Stream, b.Seq, b.Count, b.Bytes,
			b.First.Format(time.RFC3339), b.Last.Format(time.RFC3339), strings.Join(b.Waiting, ","))
	}
	return w.Flush()
}

func spoolStats(out io.Writer, src *spoolSource, asJSON bool) error {
	st, err := src.stats()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, st)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	bound := "" // a reader of the files does not know it
	if st.MaxBytes > 0 {
		bound = " of " + bytesize.Size(st.MaxBytes).String()
	}
	fmt.Fprintf(w, "on disk\t%s%s in %d segments\n", bytesize.Size(st.DiskBytes), bound, st.Segments)
	fmt.Fprintf(w, "open batches\t%d samples\n", st.OpenSamples)
	fmt.Fprintf(w, "dead letters\t%d, %s\n", st.DeadLetters, bytesize.Size(st.DeadBytes))
	for _, name := range sortedKeys(st.Sinks) {
		s := st.Sinks[name]
		gone := ""
		if !s.Configured && st.MaxBytes > 0 { // only the daemon knows
			gone = "; not configured any more: `millrace spool forget " + name + "` drops it"
		}
		fmt.Fprintf(w, "waiting for %s\t%d blocks, %d samples, %s%s\n", name, s.PendingBlocks, s.PendingSamples, bytesize.Size(s.PendingBytes), gone)
	}
	return w.Flush()
}
