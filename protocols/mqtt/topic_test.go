package mqtt

import (
	"reflect"
	"strings"
	"testing"
)

// TestMatches holds the examples of 3.1.1, 4.7.1 and 4.7.2.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"#", "a/b", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/monitor", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/monitor", true},
		{"a/b", "a/b", true},
		{"a/b", "a/c", false},
		{"a/b", "a/b/c", false},
		{"a/+/c", "a/b/c", true},
		{"a/b/#", "a/c", false},
	} {
		if got := matches(c.filter, c.topic); got != c.want {
			t.Errorf("%s matches %s: %t", c.filter, c.topic, got)
		}
	}
}

func TestSubscriptionsDoNotOverlap(t *testing.T) {
	for _, c := range []struct{ filters, names, want []string }{
		{[]string{"a/#", "a/b/+", "a"}, []string{"a/b/c", "b/c", "b/c"}, []string{"a/#", "b/c"}},
		{[]string{"a/+", "a/#"}, nil, []string{"a/#"}},
		{[]string{"a/+/c", "a/b/+"}, []string{"a/b/c"}, []string{"a/+/c", "a/b/+"}},
		{[]string{"+/b", "a/#"}, []string{"$a/b"}, []string{"+/b", "a/#", "$a/b"}},
		{[]string{"$share/g/a/#"}, []string{"a/b"}, []string{"$share/g/a/#", "a/b"}},
	} {
		if got := subscriptions(c.filters, c.names); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v and %v: %v, want %v", c.filters, c.names, got, c.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for s, want := range map[string]struct {
		topic string
		path  []string
	}{
		"a/b":            {"a/b", nil},
		"a/b#temp":       {"a/b", []string{"temp"}},
		"a/b#x.0.y":      {"a/b", []string{"x", "0", "y"}},
		"a/b#/x.y/0/m~1": {"a/b", []string{"x.y", "0", "m/"}},
		"a/b#/~01":       {"a/b", []string{"~1"}},
	} {
		topic, path, err := parseAddress(s)
		if err != nil || topic != want.topic || !reflect.DeepEqual(path, want.path) {
			t.Errorf("%s: %q %q %v", s, topic, path, err)
		}
	}
	for s, want := range map[string]string{
		"":                              `address "": the topic is empty`,
		"a/#":                           `address "a/#" holds a wildcard or an empty path`,
		"a/b#":                          `address "a/b#" holds a wildcard or an empty path`,
		"a/+/b":                         `address "a/+/b": topic "a/+/b" holds a wildcard`,
		"a#x..y":                        `address "a#x..y": path "x..y" has an empty member`,
		"a#" + strings.Repeat("/x", 33): `is deeper than 32`,
		"a\x00b":                        `address "a\x00b": topic "a\x00b" is too long or not UTF-8`,
	} {
		if _, _, err := parseAddress(s); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
	}
}

func TestTemplates(t *testing.T) {
	for _, c := range []struct{ template, topic, want string }{
		{"", "sensors/boiler/temp", "plant/boiler/temp"},
		{"", "temp", "plant/src/temp"},
		{"", "/temp", "plant/src/temp"},
		{"{1}_{-1}", "a/b/c", "plant/src/a_c"},
		{"{2}/{3}", "a/b/c", "plant/b/c"},
		{"{topic}", "a/b/c", "plant/a/b/c"},
		{"dev/{-1}", "c", "plant/dev/c"},
		{"{3}", "a/b", "error: the topic has no level 3"},
		{"{-3}", "a/b", "error: the topic has no level -3"},
		{"", "a//", "error: tag \"plant/src/\": a part of the name is empty"},
		{"{topic}", "a/\x01", "error: tag \"plant/a/\\x01\": the name \"\\x01\" holds a control character"},
		{"{topic}", strings.Repeat("a", 300), "error: tag name of 310 bytes, the most is 255"},
	} {
		tm, err := parseTemplate(c.template)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tm.tag("plant", "src", c.topic)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != c.want {
			t.Errorf("%s of %s: %s, want %s", c.template, c.topic, got, c.want)
		}
	}
	for s, want := range map[string]string{
		"{":    `tag "{" has a { without its }`,
		"a}b":  `tag "a}b" has a } without its {`,
		"{0}":  `tag "{0}": {0} is neither a level nor {topic}`,
		"{x}":  `tag "{x}": {x} is neither a level nor {topic}`,
		"{1}}": `tag "{1}}" has a } without its {`,
	} {
		if _, err := parseTemplate(s); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", s, err, want)
		}
	}
}
