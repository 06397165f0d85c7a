package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"millrace/sample/ledger"
)

// maxListed bounds the holes and faults in one line.
const maxListed = 5

// Print writes one line for each stream, one for each gateway that says
// something of itself, and a summary.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	for i := range r.Streams {
		b.WriteString(r.Streams[i].Line())
		b.WriteByte('\n')
	}
	for i := range r.Gateways {
		if line := r.Gateways[i].line(); line != "" {
			b.WriteString(line + "\n")
		}
	}
	for i := range r.Sites {
		b.WriteString(r.Sites[i].line() + "\n")
	}
	for _, text := range r.Unread {
		b.WriteString("MISSING: ERROR: " + text + "\n")
	}
	b.WriteString(r.Summary.Line() + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Line is the stream's account in one line.
func (s *StreamReport) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s %s %s: ", s.Site, s.Gateway, s.Stream, s.Epoch)
	switch s.Verdict {
	case Missing:
		b.WriteString("MISSING: ")
	case Waiting:
		b.WriteString("waiting: ")
	case Balanced:
		b.WriteString("balanced: ")
	}
	parts := s.findings()
	if s.Blocks == 0 {
		parts = append(parts, "no block is here")
	} else {
		parts = append(parts, fmt.Sprintf("%s here of %s, %s", plural(s.Blocks, "block"), spanText(s.FirstSeq, s.LastSeq), plural(s.Samples, "sample")))
	}
	parts = append(parts, fmt.Sprintf("produced %d, lost %d, thinned %d", s.Produced, s.Lost, s.Thinned))
	if s.Duplicates > 0 && (!s.local || s.Unchecked > 0) {
		text := plural(s.Duplicates, "further copy")
		if s.Unchecked > 0 {
			text += fmt.Sprintf(", %d of them not compared", s.Unchecked)
		}
		parts = append(parts, text)
	}
	b.WriteString(strings.Join(parts, "; "))
	return b.String()
}

// findings are what is not as it should be, worst first.
func (s *StreamReport) findings() (out []string) {
	for i, f := range s.Faults {
		if i == maxListed {
			break
		}
		out = append(out, "ERROR: "+f)
	}
	if n := s.FaultCount - min(len(s.Faults), maxListed); n > 0 {
		out = append(out, fmt.Sprintf("and %d more errors", n))
	}
	if s.Undeclared > 0 {
		text := fmt.Sprintf("%s in no block and undeclared", plural(s.Undeclared, "sample"))
		if len(s.Places) > 0 {
			text += fmt.Sprintf(", first behind block %d", s.Places[0])
		}
		out = append(out, text)
	}
	for _, kind := range []Kind{Undefined, NotYet, Declared, Thinned, Other} {
		out = append(out, s.holesOf(kind)...)
	}
	return out
}

func (s *StreamReport) holesOf(kind Kind) (out []string) {
	more := 0
	for i := range s.Holes {
		h := &s.Holes[i]
		switch {
		case h.Kind != kind:
		case len(out) == maxListed:
			more++
		default:
			out = append(out, h.text(s.Heard))
		}
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more such ranges", more))
	}
	return out
}

func (h *Hole) text(heard time.Time) string {
	var b strings.Builder
	if h.From == h.To {
		fmt.Fprintf(&b, "block %d", h.From)
	} else {
		fmt.Fprintf(&b, "blocks %s", spanText(h.From, h.To))
	}
	if h.Samples != nil {
		fmt.Fprintf(&b, " (%s)", plural(*h.Samples, "sample"))
	}
	switch h.Kind {
	case Declared:
		b.WriteString(" declared lost: " + causes(h.Causes))
		if h.Loose {
			b.WriteString(", by a record that names no stream")
		}
	case Thinned:
		b.WriteString(" thinned")
	case NotYet:
		b.WriteString(" not arrived yet")
	case Undefined:
		b.WriteString(" missing, undeclared")
	case Other:
		b.WriteString(" not here: delivered elsewhere")
	}
	if h.Kind == Undefined || h.Kind == NotYet {
		switch {
		case !h.After.IsZero() && !h.Before.IsZero():
			fmt.Fprintf(&b, ", between %s and %s", h.After.Format(time.RFC3339), h.Before.Format(time.RFC3339))
		case !h.Before.IsZero():
			fmt.Fprintf(&b, ", before %s", h.Before.Format(time.RFC3339))
		case !h.After.IsZero():
			fmt.Fprintf(&b, ", after %s", h.After.Format(time.RFC3339))
		}
		if h.Before.IsZero() && !heard.IsZero() {
			fmt.Fprintf(&b, ", known from the heartbeat of %s", heard.Format(time.RFC3339))
		}
	}
	return b.String()
}

func causes(list []ledger.Cause) string {
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = string(c)
	}
	return strings.Join(words, ", ")
}

func (g *GatewayReport) line() string {
	var parts []string
	if h := g.Heartbeat; h != nil {
		parts = append(parts, fmt.Sprintf("last heartbeat %s (%s, %s)", h.At.Format(time.RFC3339), h.Kind, h.Version))
		if h.Backlog.Blocks > 0 {
			parts = append(parts, fmt.Sprintf("%s waited for sink %s", plural(uint64(h.Backlog.Blocks), "block"), h.Backlog.Sink))
		}
		if h.Backlog.DeadLetters > 0 {
			parts = append(parts, plural(uint64(h.Backlog.DeadLetters), "dead letter")+": see `millrace spool dead list` there")
		}
	}
	for _, c := range slices.Sorted(maps.Keys(g.Other)) {
		parts = append(parts, fmt.Sprintf("%s declared %d times", c, g.Other[c]))
	}
	for _, c := range slices.Sorted(maps.Keys(g.Uncounted)) {
		parts = append(parts, plural(uint64(g.Uncounted[c]), "declared loss")+" of unknown size ("+string(c)+")")
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s/%s: %s", g.Site, g.Gateway, strings.Join(parts, "; "))
}

func (s *SiteReport) line() string {
	if s.Short > 0 {
		return fmt.Sprintf("%s lines: MISSING: at least %s: %d in lines and %d in blocks are here, %d were produced and not lost by the last heartbeats",
			s.Site, plural(s.Short, "sample"), s.Lines, s.InBlocks, s.Expected)
	}
	return fmt.Sprintf("%s lines: %d samples in lines and %d in blocks are here, %d were produced and not lost by the last heartbeats; lines have no sequences to check",
		s.Site, s.Lines, s.InBlocks, s.Expected)
}

// Line is the summary in one line.
func (s *Summary) Line() string {
	text := fmt.Sprintf("%s: %d balanced", plural(uint64(s.Streams), "stream"), s.Balanced)
	if s.Waiting > 0 {
		text += fmt.Sprintf(", %d waiting", s.Waiting)
	}
	if s.Missing > 0 {
		text += fmt.Sprintf(", %d MISSING", s.Missing)
	}
	if s.Unread > 0 {
		text += fmt.Sprintf("; %d UNREADABLE", s.Unread)
	}
	return text + fmt.Sprintf("; %s, %s here, %d declared lost", plural(s.Blocks, "block"), plural(s.Samples, "sample"), s.Declared)
}

func plural(n uint64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if base, ok := strings.CutSuffix(word, "y"); ok {
		word = base + "ie"
	}
	if strings.HasSuffix(word, "s") {
		word += "e"
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func spanText(from, to uint64) string {
	if from == to {
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d to %d", from, to)
}
