package block

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The examples in docs/block-format.md are real.
func TestDocumentedExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/block-format.md")
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for _, line := range regexp.MustCompile(`(?m)^[0-9a-f]0  ([0-9a-f ]+)$`).FindAllSubmatch(text, -1) {
		digits.WriteString(strings.ReplaceAll(string(line[1]), " ", ""))
	}
	data, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	if want := read(t, filepath.Join(vectorDir, "one.block")); string(data) != string(want) {
		t.Errorf("the worked example is\n%x, the vector\n%x", data, want)
	}
	form := regexp.MustCompile("(?s)```json\n(.*?)```").FindSubmatch(text)
	if form == nil {
		t.Fatal("the JSON form has no example")
	}
	b, err := ParseJSON(form[1])
	if err != nil {
		t.Fatal(err)
	}
	if b.Count != 2 || b.Columns[0].Sample(0).Value.Float() != 230.7 {
		t.Errorf("the JSON example reads %+v", b)
	}
}
