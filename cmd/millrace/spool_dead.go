package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/bytesize"
	"millrace/internal/command"
	"millrace/spool"
)

// change has the daemon change something, unless a folder is given or no daemon
// runs; then it opens the files for writing and returns false.
func (s *spoolSource) change(path string, args url.Values, result any) (bool, error) {
	if s.dir == "" {
		err := control.Post(s.ctx, s.socket, path, args, result)
		if !errors.Is(err, control.ErrNotRunning) {
			return true, err
		}
		s.dir = defaultSpool
	}
	if s.writer == nil {
		log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelError}))
		w, err := spool.Maintain(s.ctx, spool.Options{Dir: s.dir, Log: log, Probe: probeCommand})
		if err != nil {
			return false, err
		}
		s.writer = w
	}
	return false, nil
}

// finish closes the files where they were opened for writing: what was done is
// done only then.
func (s *spoolSource) finish(err error) error {
	if s.writer == nil {
		return err
	}
	w := s.writer
	s.writer = nil
	return errors.Join(err, w.Close())
}

func (s *spoolSource) deadLetters() (out []gateway.DeadLetter, err error) {
	asked, err := s.ask("/v1/spool/dead", nil, &out)
	if asked || err != nil {
		return out, err
	}
	return gateway.ListDead(s.files)
}

func (s *spoolSource) peekDead(id uint64) (out []byte, err error) {
	asked, err := s.ask("/v1/spool/dead/show", url.Values{"id": {strconv.FormatUint(id, 10)}}, &out)
	if asked || err != nil {
		return out, err
	}
	b, err := s.files.PeekDead(id)
	return b.Data, err
}

// act retries or drops dead letter id, or all where it is 0.
func (s *spoolSource) act(action gateway.DeadAction, id uint64) (done []gateway.DeadLetter, err error) {
	args := url.Values{"id": {strconv.FormatUint(id, 10)}}
	if id == 0 {
		args = url.Values{"all": {"true"}}
	}
	asked, err := s.change("/v1/spool/dead/"+string(action), args, &done)
	if asked || err != nil {
		return done, err
	}
	done, err = gateway.ActOnDead(s.writer, action, id)
	return done, s.finish(err)
}

func spoolDead(out io.Writer, src *spoolSource, args []string, all, asJSON bool) error {
	if len(args) == 0 {
		return command.Usagef("dead takes list, show, retry or drop")
	}
	verb, ids := args[0], args[1:]
	if verb == "list" && len(ids) == 0 {
		return listDead(out, src, asJSON)
	}
	if verb != "show" && verb != "retry" && verb != "drop" {
		return command.Usagef("%q is none of list, show, retry and drop", verb)
	}
	id := uint64(0)
	switch {
	case all && verb != "show" && len(ids) == 0:
	case all || len(ids) != 1:
		return command.Usagef("dead %s takes one number, as `millrace spool dead list` shows it%s", verb, map[bool]string{true: ", or --all"}[verb != "show"])
	default:
		var err error
		if id, err = strconv.ParseUint(ids[0], 10, 64); err != nil || id == 0 {
			return command.Usagef("%q is not a dead letter's number; `millrace spool dead list` shows them", ids[0])
		}
	}
	if verb == "show" {
		return showDead(out, src, id, asJSON)
	}
	action := gateway.DeadAction(verb)
	done, err := src.act(action, id)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, done)
	}
	if len(done) == 0 {
		fmt.Fprintln(out, "there are no dead letters")
	}
	for _, l := range done {
		what := "is sent again"
		if action == gateway.DeadDrop {
			what = "is dropped; its loss is declared"
		}
		fmt.Fprintf(out, "dead letter %d (sink %s, stream %s, sequence %d, %d samples) %s\n", l.ID, l.Sink, l.StreamName, l.Seq, l.Count, what)
	}
	return nil
}

func listDead(out io.Writer, src *spoolSource, asJSON bool) error {
	letters, err := src.deadLetters()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, letters)
	}
	if len(letters) == 0 {
		fmt.Fprintln(out, "there are no dead letters")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSINK\tREFUSED\tSTREAM\tSEQ\tSAMPLES\tSIZE\tFIRST\tLAST\tWHY")
	for _, l := range letters {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", l.ID, l.Sink, l.At.Format(time.RFC3339), l.StreamName, l.Seq, l.Count,
			bytesize.Size(l.Bytes), moment(l.First), moment(l.Last), l.Reason)
	}
	return w.Flush()
}

func moment(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }

func showDead(out io.Writer, src *spoolSource, id uint64, asJSON bool) error {
	data, err := src.peekDead(id)
	if err != nil {
		return err
	}
	if asJSON {
		return printBlock(out, data, formatFor(asJSON))
	}
	letters, err := src.deadLetters()
	if err != nil {
		return err
	}
	for _, l := range letters {
		if l.ID == id {
			fmt.Fprintf(out, "dead letter %d, refused by sink %s at %s: %s\n", l.ID, l.Sink, l.At.Format(time.RFC3339), l.Reason)
		}
	}
	return printBlock(out, data, formatFor(asJSON))
}

func spoolForget(out io.Writer, src *spoolSource, sink, config string, asJSON bool) error {
	var f gateway.Forgotten
	asked, err := src.change("/v1/spool/forget", url.Values{"sink": {sink}}, &f)
	if !asked && err == nil {
		if err = notConfigured(sink, src.dir, config); err == nil {
			f, err = gateway.Forget(src.writer, sink)
		}
		err = src.finish(err)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, f)
	}
	fmt.Fprintf(out, "sink %s is forgotten, and with it %d blocks of %d samples that it did not have\n", f.Sink, f.Blocks, f.Samples)
	return nil
}

// notConfigured refuses to forget a sink that the gateway of this spool would
// deliver to at its next start.
func notConfigured(sink, dir, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && path == defaultConfig {
		return nil // the spool of another machine
	}
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	for i := range cfg.Sinks {
		if cfg.Sinks[i].Name == sink && samePath(cfg.Spool.Dir, dir) {
			return fmt.Errorf("sink %q is in use: %s names it; take it out of the configuration first", sink, path)
		}
	}
	return nil
}

func samePath(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && absA == absB
}
