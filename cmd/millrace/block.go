package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"millrace/gateway"
	"millrace/internal/command"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/uploader/file"
)

var blockCommand = command.Command{
	Name: "block", Summary: "decode packed blocks",
	Usage: "decode [--format text|json|jsonl] FILE...",
	Help: `
Decodes blocks from files: one bare block, as an SQS message or a DynamoDB item
holds it, or a file of the file sink with any number of them; - is one bare block
from standard input.

  text    header, then one line per sample (default)
  json    the JSON form of each block, one per line
  jsonl   one JSON object per sample

Examples:
  millrace block decode 2026-03-01T12.blocks
  aws sqs receive-message ... --query 'Messages[0].Body' --output text | base64 -d | millrace block decode -
`,
	Run: decodeBlocks,
}

func formatFor(asJSON bool) string {
	if asJSON {
		return "json"
	}
	return "text"
}

func decodeBlocks(_ context.Context, c *command.Call) error {
	format := c.Flags.String("format", "text", "text, json or jsonl")
	args, err := c.ParseAll()
	if err != nil {
		return err
	}
	if len(args) < 2 || args[0] != "decode" {
		return command.Usagef("block takes decode and at least one file")
	}
	if *format != "text" && *format != "json" && *format != "jsonl" {
		return command.Usagef("--format %q is none of text, json and jsonl", *format)
	}
	for _, path := range args[1:] {
		if err := decodeFile(c.Stdout, path, *format); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func decodeFile(out io.Writer, path, format string) error {
	if path == "-" {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		return printBlock(out, data, format)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := block.ReadHeader(data); err == nil {
		return printBlock(out, data, format)
	}
	return file.ReadFile(path, func(b []byte) error { return printBlock(out, b, format) })
}

func printBlock(out io.Writer, data []byte, format string) error {
	b, err := gateway.DecodeBlock(data)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	switch format {
	case "json":
		if _, err := w.Write(append(block.AppendJSON(nil, b), '\n')); err != nil {
			return err
		}
	case "jsonl":
		var line []byte
		for s := range b.All() {
			line = append(sample.AppendJSONLine(line[:0], &s), '\n')
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
	default:
		printText(w, b, len(data))
	}
	return w.Flush()
}

func printText(w io.Writer, b *block.Block, size int) {
	h := &b.Header
	fmt.Fprintf(w, "block %s\n  %d samples in %d bytes, %s to %s\n  produced %d, lost %d", h.Identity(), h.Count, size,
		instant(h.First), instant(h.Last), h.Produced, h.Lost)
	if h.Thinned > 0 {
		fmt.Fprintf(w, ", thinned %d", h.Thinned)
	}
	if h.ReplacesFrom > 0 {
		fmt.Fprintf(w, "\n  stands for blocks %d to %d, thinned", h.ReplacesFrom, h.ReplacesTo)
	}
	fmt.Fprintln(w)
	for s := range b.All() {
		fmt.Fprintf(w, "%s %s %s %s\n", instant(s.PrimaryTime()), s.Tag, s.Value, s.Quality)
	}
}

func instant(ns int64) string { return time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000Z") }
