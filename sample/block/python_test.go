//go:build interop

package block

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"millrace/sample"
)

// TestPythonDecoder has the decoder in docs/ read every test vector.
func TestPythonDecoder(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python-decoder: python3 is not installed")
	}
	if out, err := exec.Command(python, "-c", "import zstandard").CombinedOutput(); err != nil {
		t.Skipf("python-decoder: the Python package zstandard is not installed (pip install zstandard): %s", lastLine(out))
	}
	_, d := newCodec(t)
	blocks, err := filepath.Glob(filepath.Join(vectorDir, "*.block"))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("no test vectors: %v", err)
	}
	for _, path := range blocks {
		out, err := exec.Command(python, "../../docs/decode_block.py", path).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
			continue
		}
		b, err := d.Decode(read(t, path))
		if err != nil {
			t.Fatal(err)
		}
		var got []sample.Sample
		for text := range bytes.Lines(out) {
			s, err := sample.ParseJSONLine(bytes.TrimSpace(text))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			got = append(got, s)
		}
		compare(t, path, b, got)
	}
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
