package result

import (
	"crypto/ed25519"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	schemaPath = "../../docs/result.schema.json"
	pagePath   = "../../docs/result.md"
)

// property is the part of the JSON Schema that this test reads.
type property struct {
	Schema               string              `json:"$schema"`
	AdditionalProperties *bool               `json:"additionalProperties"`
	Required             []string            `json:"required"`
	Properties           map[string]property `json:"properties"`
	Examples             []json.RawMessage   `json:"examples"`
	Description          string              `json:"description"`
	Pattern              string              `json:"pattern"`
	MaxLength            int                 `json:"maxLength"`
	Enum                 []string            `json:"enum"`
	Const                string              `json:"const"`
}

func schema(t *testing.T) property {
	t.Helper()
	var s property
	if err := json.Unmarshal(read(t, schemaPath), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// message is the first example of the schema, as raw fields.
func message(t *testing.T, s property) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(s.Examples[0], &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSchemaHasTheFields(t *testing.T) {
	s := schema(t)
	if s.Schema != "https://json-schema.org/draft/2020-12/schema" || s.Properties["schema"].Const != Schema {
		t.Errorf("the schema is %q for %q", s.Schema, s.Properties["schema"].Const)
	}
	names := fieldNames()
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(s.Properties)); !slices.Equal(got, names) {
		t.Errorf("the schema has the fields %q, the code %q", got, names)
	}
	signature := s.Properties["signature"]
	for _, closed := range []*bool{s.AdditionalProperties, signature.AdditionalProperties} {
		if closed == nil || *closed {
			t.Error("the schema lets other fields in")
		}
	}
	if len(signature.Properties) != 2 || len(signature.Required) != 2 {
		t.Errorf("a signature has %d fields, %d required", len(signature.Properties), len(signature.Required))
	}
	for _, name := range names {
		m := message(t, s)
		delete(m, name)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Parse(text)
		if required := slices.Contains(s.Required, name); required == (err == nil) {
			t.Errorf("required %t, and without %s: %v", required, name, err)
		}
	}
}

// TestSchemaExamples puts each field's examples into the whole message.
func TestSchemaExamples(t *testing.T) {
	s := schema(t)
	for _, text := range s.Examples {
		if _, err := Parse(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for name, p := range s.Properties {
		if len(p.Examples) == 0 || p.Description == "" {
			t.Errorf("%s has no example or no description", name)
		}
		for _, text := range p.Examples {
			m := message(t, s)
			m[name] = text
			checkExample(t, name, m)
		}
	}
}

// checkExample parses a message one of whose fields was replaced. A value goes
// with the type that it can be of, and the other way round.
func checkExample(t *testing.T, name string, m map[string]json.RawMessage) {
	t.Helper()
	kinds := []string{string(m["type"])}
	values := []string{string(m["value"])}
	switch name {
	case "value":
		kinds = []string{`"float64"`, `"int64"`, `"bool"`, `"string"`}
	case "type":
		values = []string{"41.5", "41", "true", `"auto"`}
	}
	var problems []string
	for _, kind := range kinds {
		for _, value := range values {
			m["type"], m["value"] = json.RawMessage(kind), json.RawMessage(value)
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(text)
			if err == nil {
				return
			}
			problems = append(problems, err.Error())
		}
	}
	t.Errorf("the example of %s is refused: %s", name, strings.Join(problems, "; "))
}

// TestSchemaBounds holds the schema's patterns and lengths to what is parsed.
func TestSchemaBounds(t *testing.T) {
	s := schema(t)
	sum := s.Properties["signature"].Properties["ed25519"].Pattern
	encoded := regexp.MustCompile(`"ed25519": ?"([^"]*)"`).FindStringSubmatch(string(s.Examples[0]))
	if len(encoded) != 2 || !regexp.MustCompile(sum).MatchString(encoded[1]) {
		t.Errorf("the pattern %s does not match the signature of the example", sum)
	}
	for _, name := range []string{"id", "site", "target", "unit", "run"} {
		p := s.Properties[name]
		if p.MaxLength != MaxNameBytes {
			t.Errorf("%s has at most %d characters, the code %d bytes", name, p.MaxLength, MaxNameBytes)
		}
		pattern := regexp.MustCompile(strings.ReplaceAll(p.Pattern, `\u00`, `\x`)) // Go's own form
		for _, text := range []string{"sp1", "a b", "Werk Süd", "a/b", "a#b", "a\nb", "a\x7f", "a\u0085"} {
			e := checkText(name, text)
			if name == "site" || name == "target" {
				e = checkName(name, text)
			}
			if pattern.MatchString(text) != (e == nil) {
				t.Errorf("%s %q: the schema takes it: %t, the code: %v", name, text, pattern.MatchString(text), e)
			}
		}
	}
	for _, name := range []string{"computed_at", "valid_from", "valid_until"} {
		pattern := regexp.MustCompile(s.Properties[name].Pattern)
		for _, text := range []string{"2026-11-28T12:00:00Z", "2026-11-28T12:00:00.123456789+01:00", "2026-11-28T12:00:00.1234567891Z",
			"2026-11-28 12:00:00Z", "2026-11-28T12:00:00", "2026-11-28t12:00:00z", "2026-11-28T12:00:00,5Z"} {
			_, e := parseTime(name, []byte(`"`+text+`"`))
			if pattern.MatchString(text) != (e == nil) {
				t.Errorf("%s %q: the schema takes it: %t, the code: %v", name, text, pattern.MatchString(text), e)
			}
		}
	}
	for _, kind := range s.Properties["type"].Enum {
		if e := parseKind([]byte(`"` + kind + `"`)); e != nil {
			t.Errorf("type %s: %v", kind, e)
		}
	}
}

// TestPage holds docs/result.md to the code: its message, a row with an example
// for each field, a row for each reason, the signed bytes.
func TestPage(t *testing.T) {
	page := string(read(t, pagePath))
	block := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(page)
	if block == nil {
		t.Fatal("no message in the page")
	}
	r, err := Parse([]byte(block[1]))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_0-9]+)` \\|(.*)$").FindAllStringSubmatch(page, -1) {
		if _, ok := rows[row[1]]; !ok {
			rows[row[1]] = row[2]
		}
	}
	for _, name := range fieldNames() {
		example := regexp.MustCompile("^ `([^`]+)` ").FindStringSubmatch(rows[name])
		if example == nil {
			t.Errorf("the page has no example of %s: %q", name, rows[name])
			continue
		}
		m := message(t, schema(t))
		m[name] = json.RawMessage(example[1])
		checkExample(t, name, m)
	}
	for _, reason := range []string{
		TooLarge, NotJSON, UnknownSchema, MissingField, UnknownField, DuplicateField, WrongType, NotANumber, BadTime, BadName,
	} {
		if rows[reason] == "" {
			t.Errorf("the page does not say what %s means", reason)
		}
	}
	signed := regexp.MustCompile("(?s)```\n([0-9a-f\n]+)```").FindStringSubmatch(page)
	v, private := vectors(t)
	if signed == nil || strings.ReplaceAll(signed[1], "\n", "") != v.Vectors[0].SignedHex {
		t.Error("the signed bytes in the page are not those of the first vector")
	}
	if err := r.Verify(map[string]ed25519.PublicKey{"cloud": private.Public().(ed25519.PublicKey)}); err != nil {
		t.Errorf("the message of the page: %v", err)
	}
}
