// Package csv hands values over by files: one for each target, with a header
// and one line, replaced as a whole by a rename, for SCADA systems and
// spreadsheets that import from a folder. It only writes.
package csv

import (
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"millrace/protocols"
)

// Protocol is the protocol `type: csv`.
type Protocol struct{}

// Type implements protocols.Protocol.
func (Protocol) Type() string { return "csv" }

// NewConfig implements protocols.Protocol.
func (Protocol) NewConfig() protocols.Config {
	return &Config{Delimiter: ",", Decimal: ".", Mode: "0640"}
}

// Config is what `connection:` of a folder holds.
type Config struct {
	// Dir is the folder, which must be there.
	Dir string `yaml:"dir"`
	// Delimiter stands between the fields: , ; | or the word tab.
	Delimiter string `yaml:"delimiter"`
	// Decimal is the point of numbers: . or ,.
	Decimal string `yaml:"decimal"`
	// BOM puts the mark of UTF-8 at the beginning, which Excel needs to read
	// letters beyond ASCII.
	BOM bool `yaml:"bom"`
	// Mode are the permissions of the files, in octal digits; empty leaves them
	// as they come, for shares that have none.
	Mode string `yaml:"mode"`
	// Group is the group of the files, by name; the daemon's own where empty.
	Group string `yaml:"group"`

	// hook, of tests, is called before each step, which fails where it returns
	// an error.
	hook func(step) error
}

// step is one of the steps by which a file is replaced.
type step string

// The steps, in their order. After the rename the file is there for everybody.
const (
	stepOpen    step = "open"
	stepCreate  step = "create"
	stepWrite   step = "write"
	stepSync    step = "sync"
	stepRename  step = "rename"
	stepSyncDir step = "sync the folder"
)

// delimiters are the words of Config.Delimiter.
func delimiter(word string) (rune, bool) {
	switch word {
	case ",", ";", "|":
		return rune(word[0]), true
	case "tab":
		return '\t', true
	}
	return 0, false
}

// mode parses the permissions. The daemon itself must be able to read the file
// back, and nobody else may be able to write it.
func (c *Config) mode() (fs.FileMode, error) {
	if c.Mode == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(c.Mode, 8, 32)
	switch {
	case err != nil || n > 0o777:
		return 0, fmt.Errorf("%q are no permissions", c.Mode)
	case n&0o600 != 0o600:
		return 0, fmt.Errorf("%s does not let the gateway read and write its own file", c.Mode)
	case n&0o002 != 0:
		return 0, fmt.Errorf("%s lets everybody change the value", c.Mode)
	}
	return fs.FileMode(n), nil
}

// Validate implements protocols.Config.
func (c *Config) Validate(src *protocols.SourceConfig) []protocols.Fault {
	var out []protocols.Fault
	add := func(bad bool, path, problem, hint string) {
		if bad {
			out = append(out, protocols.Fault{Path: path, Problem: problem, Hint: hint})
		}
	}
	if c.Dir == "" {
		add(true, "connection.dir", "is missing", "name the folder that the SCADA system imports from, for example /srv/scada/drop")
	} else {
		add(!filepath.IsAbs(c.Dir), "connection.dir", fmt.Sprintf("%q does not begin with a slash", c.Dir), "write the whole path")
	}
	_, known := delimiter(c.Delimiter)
	add(!known, "connection.delimiter", fmt.Sprintf("%q is not known", c.Delimiter), `write ",", ";", "|" or tab`)
	add(c.Decimal != "." && c.Decimal != ",", "connection.decimal", fmt.Sprintf("%q is not known", c.Decimal), `write "." or ","`)
	add(known && c.Decimal == c.Delimiter, "connection.decimal", fmt.Sprintf("%q stands between the fields already", c.Decimal), `write delimiter: ";" with decimal: ","`)
	if _, err := c.mode(); err != nil {
		add(true, "connection.mode", err.Error(), `write octal digits in quotes, for example "0640"`)
	}
	add(len(src.Tags) > 0, "tags", "nothing is read from files", "leave them out")
	return out
}

// LinkKey implements protocols.Config.
func (c *Config) LinkKey() string { return "csv " + filepath.Clean(c.Dir) }

// Serves implements protocols.Sourceless.
func (*Config) Serves() bool { return false }

// Open implements protocols.Config.
func (c *Config) Open(s protocols.Settings) (protocols.Connection, error) {
	mode, err := c.mode()
	if err != nil {
		return nil, fmt.Errorf("folder %s: mode: %w", c.Dir, err)
	}
	f := &folder{dir: filepath.Clean(c.Dir), mode: mode, gid: -1, clock: s.Clock, log: s.Log, hook: c.hook, busy: make(chan struct{}, 1)}
	f.form = form{decimal: c.Decimal, bom: c.BOM}
	f.form.delimiter, _ = delimiter(c.Delimiter)
	if f.hook == nil {
		f.hook = func(step) error { return nil }
	}
	if c.Group != "" {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			return nil, fmt.Errorf("folder %s: group %s is not known here: make it, or correct connection.group: %s", c.Dir, c.Group, oneLine(err))
		}
		if f.gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("folder %s: group %s: %w", c.Dir, c.Group, err)
		}
	}
	return f, nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
