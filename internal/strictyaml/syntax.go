package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"millrace/internal/bytesize"
)

// maxFile bounds a file; ten thousand tags take about 1 MiB.
const maxFile = 4 << 20

// ReadFile reads a file of settings. Its error is of type Errors.
func ReadFile(path string) ([]byte, error) {
	only := func(problem, hint string) error {
		return Errors{{File: path, Problem: problem, Hint: hint}}
	}
	// A pipe that nobody writes to must not hold the program up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, only("cannot be opened: "+Reason(err), "name the configuration with --config FILE")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, only("cannot be read: "+Reason(err), "is it a file?")
	}
	if len(data) > maxFile {
		return nil, only(fmt.Sprintf("is larger than %s", bytesize.Size(maxFile)), "is it a configuration?")
	}
	return data, nil
}

// Reason is an error without the operation and the path, which are said
// already.
func Reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// Parse reads the YAML, or says why it is none.
func (d *Decoder) Parse(data []byte) *yaml.Node {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		d.whole("is text in UTF-16", "save it as UTF-8")
		return nil
	}
	if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		d.whole("is not a YAML file: it holds bytes that are no text", "is it the right file, and saved as UTF-8?")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		d.whole("is empty", "start from "+d.Example)
		return nil
	} else if err != nil {
		d.syntax(err, data)
		return nil
	}
	root := doc.Content[0]
	switch {
	case IsNull(root):
		d.whole("is empty", "start from "+d.Example)
		return nil
	case root.Kind != yaml.MappingNode:
		d.Fail(root, "", "is not a configuration: it holds "+KindName(root)+" where keys are expected", "start from "+d.Example)
		return nil
	}
	if err := dec.Decode(&next); err == nil {
		d.Fail(&next, "", "a second document begins before this line and would not be read", "take the --- before it away, or put it into a file of its own")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err, data)
	}
	return root
}

// whole reports a fault of the file as a whole.
func (d *Decoder) whole(problem, hint string) {
	d.Errors = append(d.Errors, &Error{File: d.File, Problem: problem, Hint: hint})
}

var (
	yamlLine    = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	yamlUnknown = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// grammar begins the messages of the library's parser, which counts lines from
// 0. Its scanner counts them from 1, and both leave the first line out.
const grammar = "did not find expected"

// syntax reports what the YAML library says, at the right line, without
// repeating what the file holds.
func (d *Decoder) syntax(err error, data []byte) {
	first, _, _ := strings.Cut(err.Error(), "\n")
	problem, line := first, 1
	if m := yamlLine.FindStringSubmatch(first); m != nil {
		problem = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
			if strings.HasPrefix(problem, grammar) {
				line++
			}
		}
	}
	hint := "look at the indentation and the colons of this line and the one before"
	if strings.HasPrefix(problem, grammar) { // the line is where the block begins
		hint = "compare the indentation, the dashes and the brackets from this line on"
	}
	lines := strings.Split(string(data), "\n")
	if m := yamlUnknown.FindStringSubmatch(problem); m != nil {
		// The name may be a password that begins with an asterisk.
		problem, hint = "an anchor is used that stands nowhere before", "write &name where it is first used; a value that begins with * needs quotes"
		for i, text := range lines {
			if strings.Contains(text, "*"+m[1]) {
				line = i + 1
				break
			}
		}
	}
	if line > len(lines) {
		line = len(lines)
	}
	text := strings.TrimLeft(lines[line-1], " ")
	if strings.HasPrefix(text, "\t") {
		hint = "the line is indented with a tab; use spaces"
	} else if strings.Contains(problem, "cannot start any token") {
		hint = "a value that begins with @, ` or % needs quotes"
	}
	d.Errors = append(d.Errors, &Error{File: d.File, Line: line, Column: 1, Problem: fmt.Sprintf("is not YAML: %s", oneLine(problem)), Hint: hint})
}
