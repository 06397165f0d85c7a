//go:build interop

package result

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPythonSigner has docs/sign_result.py sign every test vector.
func TestPythonSigner(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python-signer: python3 is not installed")
	}
	if out, err := exec.Command(python, "-c", "import cryptography").CombinedOutput(); err != nil {
		t.Skipf("python-signer: the Python package cryptography is not installed (pip install cryptography): %s", out)
	}
	v, private := vectors(t)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Vectors {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(c.Message, &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "signature")
		unsigned, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(python, "../../docs/sign_result.py", v.Key, path)
		cmd.Stdin = bytes.NewReader(unsigned)
		var complaints strings.Builder
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v\n%s", c.Name, err, complaints.String())
			continue
		}
		r, err := Parse(out)
		if err != nil {
			t.Errorf("%s: %v in %s", c.Name, err, out)
			continue
		}
		if err := r.Verify(map[string]ed25519.PublicKey{v.Key: private.Public().(ed25519.PublicKey)}); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}
