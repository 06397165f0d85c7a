package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/clock"
	"millrace/internal/command"
	"millrace/internal/progress"
	"millrace/sample/block"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
	"millrace/spool"
	"millrace/uploader/file"
)

// auditPatience is how far blocks of a running gateway may be behind its
// heartbeat.
const auditPatience = time.Minute

var auditCommand = command.Command{
	Name: "audit", Summary: "prove from sequences and counts that nothing is missing",
	Usage: "[--config FILE | --dir SPOOL] [--files DIR ...] [--from-first] [--json]",
	Help: `
Reads every block in the spool and in the folders of file sinks, and holds
sequences, counts, gap records and heartbeats against each other. Prints one
line for each stream: balanced, waiting for what is on its way, or MISSING with
the sequences and times; then a summary. Exit code 1 when something is missing
that no gap record declares, or does not agree with itself.

With --config, a running gateway is asked by its local socket for what its spool
holds, and the folders of the configured file sinks are read too. With --dir, the
files of a stopped gateway's spool are read.

Without a file sink the spool is all there is to look at: what it does not hold
was confirmed by every sink. For the tables in DynamoDB see millrace-cloud audit.

Examples:
  millrace audit --config /etc/millrace/millrace.yaml
  millrace audit --dir /mnt/old/spool --files /mnt/old/out
  millrace audit --files /archive/out --json | jq .summary
`,
	Run: runAudit,
}

// folders is a flag that may stand several times.
type folders []string

func (f *folders) String() string     { return fmt.Sprint(*f) }
func (f *folders) Set(v string) error { *f = append(*f, v); return nil }

func runAudit(ctx context.Context, c *command.Call) error {
	var a auditRun
	path := c.Flags.String("config", "", "configuration `file` (default "+defaultConfig+" where neither --dir nor --files is given)")
	dir := c.Flags.String("dir", "", "read the spool in this `folder`")
	var files folders
	c.Flags.Var(&files, "files", "read the files of a file sink in this `folder`; may be given more than once")
	fromFirst := c.Flags.Bool("from-first", false, "begin each stream's account with the first block found: older files were removed, or the sink came later")
	asJSON := c.Flags.Bool("json", false, "print JSON")
	if err := c.Parse(); err != nil {
		return err
	}
	if *path != "" && *dir != "" {
		return command.Usagef("--config and --dir exclude each other")
	}
	a.options.FromFirst = *fromFirst
	switch {
	case *path != "" || *dir == "" && len(files) == 0:
		if *path == "" {
			*path = defaultConfig
		}
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		a.spool = &auditSpool{ctx: ctx, socket: cfg.Control.Socket, dir: cfg.Spool.Dir}
		for i := range cfg.Sinks {
			if f, ok := cfg.Sinks[i].Config.(*file.Config); ok {
				d := f.Dir
				if !filepath.IsAbs(d) {
					d = filepath.Join(filepath.Dir(cfg.Spool.Dir), d)
				}
				a.configured = append(a.configured, d)
				a.whole = a.whole || f.Format == file.FormatBlock
				a.options.FromFirst = a.options.FromFirst || f.MaxFiles > 0
			}
		}
	case *dir != "":
		a.spool = &auditSpool{ctx: ctx, dir: *dir}
	}
	a.folders = files
	report, err := a.run(ctx, c)
	if err != nil {
		return err
	}
	if a.spool == nil && len(report.Streams) == 0 && report.Complete() {
		return fmt.Errorf("there is no file of a file sink, or no block in them, in %s", strings.Join(files, ", "))
	}
	if *asJSON {
		err = printJSON(c.Stdout, report)
	} else {
		err = report.Print(c.Stdout)
	}
	if err != nil {
		return err
	}
	if !report.Complete() {
		return errors.New("something is missing undeclared or contradicts itself: see the lines marked MISSING")
	}
	return nil
}

// auditRun is one audit.
type auditRun struct {
	spool   *auditSpool // nil where only files are read
	folders []string
	// configured are folders that a sink has not made yet where it has had
	// nothing to write.
	configured []string
	options    audit.Options

	ledger *audit.Ledger
	dec    *block.Decoder
	meter  *progress.Meter
	whole  bool // a folder holds blocks, so what is in neither place is missing
	faults []string
}

func (a *auditRun) run(ctx context.Context, c *command.Call) (*audit.Report, error) {
	var err error
	if a.dec, err = block.NewDecoder(); err != nil {
		return nil, err
	}
	a.ledger = audit.New(0)
	stored, err := a.list()
	if err != nil {
		return nil, err
	}
	total := int64(0)
	for i := range stored {
		total += stored[i].Bytes
	}
	var state gateway.AuditState
	if a.spool != nil {
		defer a.spool.close()
		if state, err = a.spool.state(); err != nil {
			return nil, err
		}
		total += state.Bytes
	}
	a.meter = progress.New(c.Stderr, "audit", total, clock.System{})
	defer a.meter.Done()
	// The spool first: what leaves it meanwhile is in the files already. What
	// is sealed meanwhile is read at the end.
	last, err := a.readSpool(ctx, 0)
	if err != nil {
		return nil, err
	}
	if stored, err = a.list(); err != nil {
		return nil, err
	}
	for i := range stored {
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		if err := a.readFile(&stored[i]); err != nil {
			return nil, err
		}
	}
	if _, err := a.readSpool(ctx, last); err != nil {
		return nil, err
	}
	if err := a.addState(&state); err != nil {
		return nil, err
	}
	a.options.Now = time.Now()
	if a.spool != nil && a.spool.running {
		a.options.Patience = auditPatience
	}
	a.options.Elsewhere = !a.whole
	a.options.Local = true
	report := a.ledger.Report(a.options)
	report.Unreadable(a.faults, len(a.faults))
	return report, nil
}

var errInterrupted = errors.New("interrupted")

// list lists the files of all folders.
func (a *auditRun) list() (stored []file.Stored, err error) {
	for i, d := range slices.Concat(a.folders, a.configured) {
		list, err := file.List(d)
		if errors.Is(err, os.ErrNotExist) && i >= len(a.folders) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("files of a file sink: %w", err)
		}
		for i := range list {
			a.whole = a.whole || list[i].Format == file.FormatBlock
		}
		stored = append(stored, list...)
	}
	return stored, nil
}

// readSpool reads the blocks with numbers above after, and returns the last
// number.
func (a *auditRun) readSpool(ctx context.Context, after uint64) (uint64, error) {
	for a.spool != nil {
		if ctx.Err() != nil {
			return 0, errInterrupted
		}
		chunk, err := a.spool.chunk(after)
		if err != nil {
			return 0, err
		}
		for i := range chunk.Blocks {
			if err := a.add(&chunk.Blocks[i]); err != nil {
				return 0, err
			}
		}
		a.meter.Add(chunk.Bytes)
		if chunk.Next == 0 {
			break
		}
		after = chunk.Next
	}
	return after, nil
}

func (a *auditRun) add(b *gateway.AuditBlock) error {
	switch {
	case b.Fault != "":
		a.faults = append(a.faults, "spool: "+b.Fault)
		return nil
	case b.Data != nil:
		return a.addBytes(b.Data)
	}
	a.ledger.AddBlock(b.Block)
	return nil
}

func (a *auditRun) addBytes(data []byte) error {
	h, err := block.ReadHeader(data)
	if err != nil {
		return err
	}
	return a.ledger.AddHeader(&h, weektable.Checksum(data), func() (*block.Block, error) { return a.dec.Decode(data) })
}

// readFile reads one file of a file sink. What a crash left at its end is not
// confirmed, and comes again.
func (a *auditRun) readFile(f *file.Stored) error {
	if _, err := os.Stat(f.Path); errors.Is(err, os.ErrNotExist) && f.Unfinished {
		f.Path, f.Unfinished = strings.TrimSuffix(f.Path, ".part"), false // it is finished now
	}
	var err error
	if f.Format == file.FormatJSONL {
		err = file.ReadLines(f.Path, a.ledger.AddSample)
	} else {
		err = file.ReadFile(f.Path, func(data []byte) error {
			a.meter.Add(int64(len(data)))
			if err := a.addBytes(data); err != nil {
				a.faults = append(a.faults, f.Path+": "+err.Error())
			}
			return nil
		})
	}
	var torn *file.TornError
	if errors.As(err, &torn) {
		if !f.Unfinished {
			a.faults = append(a.faults, err.Error())
		}
		return nil
	}
	return err
}

// addState adds what the spool knows besides blocks.
func (a *auditRun) addState(st *gateway.AuditState) error {
	for i := range st.Dead { // what a sink refused is still here
		if err := a.add(&st.Dead[i]); err != nil {
			return err
		}
	}
	return a.ledger.AddLosses(st.Losses)
}

// auditSpool is a running daemon's spool, or files.
type auditSpool struct {
	ctx         context.Context
	socket, dir string
	running     bool
	files       *spool.Reader
}

// ask asks the daemon; where none runs it opens the files and returns false.
func (s *auditSpool) ask(path string, args url.Values, result any) (bool, error) {
	if s.files == nil && s.socket != "" {
		err := control.Call(s.ctx, s.socket, path, args, result)
		if !errors.Is(err, control.ErrNotRunning) {
			s.running = err == nil
			return true, err
		}
		if s.running {
			return true, fmt.Errorf("the gateway stopped meanwhile: %w; start the audit again", err)
		}
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

func (s *auditSpool) chunk(after uint64) (out gateway.AuditChunk, err error) {
	asked, err := s.ask("/v1/audit/blocks", url.Values{"after": {strconv.FormatUint(after, 10)}}, &out)
	if asked || err != nil {
		return out, err
	}
	return gateway.AuditChunkOf(s.files, after)
}

func (s *auditSpool) state() (out gateway.AuditState, err error) {
	asked, err := s.ask("/v1/audit/state", nil, &out)
	if asked || err != nil {
		return out, err
	}
	return gateway.AuditStateOf(s.files)
}

func (s *auditSpool) close() {
	if s.files != nil {
		// It was only read from.
		_ = s.files.Close()
	}
}
