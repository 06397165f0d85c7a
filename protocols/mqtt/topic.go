package mqtt

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/sample"
)

const maxTopicBytes = 65535 // 3.1.1, 4.7.3

// checkTopic reports why s is no topic name to which a message can be
// published (3.1.1, 4.7.3 and 3.3.2.1).
func checkTopic(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("the topic is empty")
	case len(s) > maxTopicBytes || !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return fmt.Errorf("topic %q is too long or not UTF-8", s)
	case strings.ContainsAny(s, "+#"):
		return fmt.Errorf("topic %q holds a wildcard", s)
	}
	return nil
}

// checkFilter reports why s is no topic filter (3.1.1, 4.7.1).
func checkFilter(s string) error {
	filter := unshared(s)
	switch {
	case filter == "":
		return fmt.Errorf("the filter is empty")
	case len(s) > maxTopicBytes || !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return fmt.Errorf("filter %q is too long or not UTF-8", s)
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return fmt.Errorf("filter %q: a wildcard stands for a whole level", s)
		}
		if level == "#" && i < len(levels)-1 {
			return fmt.Errorf("filter %q: # stands at the end only", s)
		}
	}
	return nil
}

// unshared returns the filter of a shared subscription $share/group/filter,
// as brokers beyond 3.1.1 offer it, and any other filter as it is.
func unshared(filter string) string {
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		return rest
	}
	return filter
}

// matches reports whether a topic is among those of a filter (3.1.1, 4.7).
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	return covers(filter, topic)
}

// covers reports whether every topic of filter b is among those of filter a.
func covers(a, b string) bool {
	if strings.HasPrefix(b, "$") && !strings.HasPrefix(a, "$") {
		return false
	}
	for {
		if a == "#" {
			return true
		}
		la, restA, moreA := strings.Cut(a, "/")
		lb, restB, moreB := strings.Cut(b, "/")
		if lb == "#" || la != "+" && la != lb {
			return false
		}
		switch {
		case !moreA && !moreB:
			return true
		case !moreB:
			return restA == "#" // the parent level is included
		case !moreA:
			return false
		}
		a, b = restA, restB
	}
}

// subscriptions returns the filters to subscribe to: those of topics, and each
// of names that none of these covers. A broker may send a message once for
// each filter that matches (3.1.1, 3.3.5), so fewer is better.
func subscriptions(filters, names []string) []string {
	var out []string
	for i, f := range filters {
		needed := true
		for j, other := range filters {
			if i != j && other == unshared(other) && f == unshared(f) && covers(other, f) {
				needed = false
			}
		}
		if needed {
			out = append(out, f)
		}
	}
	wild := len(out)
	seen := map[string]bool{}
next:
	for _, n := range names {
		if seen[n] {
			continue
		}
		seen[n] = true
		for _, f := range out[:wild] {
			if f == unshared(f) && matches(f, n) {
				continue next
			}
		}
		out = append(out, n)
	}
	return out
}

// parseAddress splits topic or topic#path.
func parseAddress(s string) (topic string, path []string, err error) {
	topic, text, found := strings.Cut(s, "#")
	if found && (text == "" || strings.HasSuffix(topic, "/")) {
		return "", nil, fmt.Errorf("address %q holds a wildcard or an empty path", s)
	}
	if err := checkTopic(topic); err != nil {
		return "", nil, fmt.Errorf("address %q: %w", s, err)
	}
	if found {
		if path, err = parsePath(text); err != nil {
			return "", nil, fmt.Errorf("address %q: %w", s, err)
		}
	}
	return topic, path, nil
}

// maxPath is how many levels a path may have.
const maxPath = 32

// parsePath reads a dotted path, a.b.0, or a JSON pointer, /a/b/0 (RFC 6901).
func parsePath(s string) ([]string, error) {
	var path []string
	if pointer, ok := strings.CutPrefix(s, "/"); ok {
		unescape := strings.NewReplacer("~1", "/", "~0", "~")
		for part := range strings.SplitSeq(pointer, "/") {
			path = append(path, unescape.Replace(part))
		}
	} else {
		for part := range strings.SplitSeq(s, ".") {
			if part == "" {
				return nil, fmt.Errorf("path %q has an empty member", s)
			}
			path = append(path, part)
		}
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("path %q is deeper than %d", s, maxPath)
	}
	return path, nil
}

// template makes a tag's name from a topic.
type template struct {
	parts []templatePart
	plain bool // the default one
}

type templatePart struct {
	text  string
	level int // 0: text; 1 is the topic's first level, -1 its last
	whole bool
}

const defaultTemplate = "{-2}/{-1}"

func parseTemplate(s string) (*template, error) {
	t := &template{plain: s == ""}
	if t.plain {
		s = defaultTemplate
	}
	rest := s
	for rest != "" {
		text, after, found := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("tag %q has a } without its {", s)
		}
		if text != "" {
			t.parts = append(t.parts, templatePart{text: text})
		}
		if !found {
			break
		}
		word, after, closed := strings.Cut(after, "}")
		level, err := strconv.Atoi(word)
		switch {
		case !closed:
			return nil, fmt.Errorf("tag %q has a { without its }", s)
		case word == "topic":
			t.parts = append(t.parts, templatePart{whole: true})
		case err != nil || level == 0 || level < -128 || level > 128:
			return nil, fmt.Errorf("tag %q: {%s} is neither a level nor {topic}", s, word)
		default:
			t.parts = append(t.parts, templatePart{level: level})
		}
		rest = after
	}
	return t, nil
}

// tag returns the full tag name for a topic: site/device/name, where the
// device is the source's unless the template gives one.
func (t *template) tag(site, device, topic string) (string, error) {
	levels := strings.Split(topic, "/")
	var b strings.Builder
	if t.plain && (len(levels) == 1 || levels[len(levels)-2] == "") {
		b.WriteString(levels[len(levels)-1])
	} else {
		for _, p := range t.parts {
			switch at := p.level; {
			case p.whole:
				b.WriteString(topic)
			case at == 0:
				b.WriteString(p.text)
			default:
				if at < 0 {
					at += len(levels) + 1
				}
				if at < 1 || at > len(levels) {
					return "", fmt.Errorf("the topic has no level %d", p.level)
				}
				b.WriteString(levels[at-1])
			}
		}
	}
	tag := sample.JoinTag(site, device, b.String())
	return tag, sample.CheckTag(tag)
}
