//go:build interop

package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func cfnLint(t *testing.T) string {
	t.Helper()
	path := os.Getenv("MILLRACE_INTEROP_CFNLINT")
	if path == "" {
		t.Skip("cfnlint is not installed; run make interop-cloud")
	}
	return path
}

// cfn-lint has nothing to say, warnings and hints included, in regions that
// differ in what they offer.
func TestCloudTemplatesPassCfnLint(t *testing.T) {
	lint := cfnLint(t)
	out, err := exec.Command(lint, "--include-checks", "W", "I", "--regions", "eu-central-1", "us-east-1", "--", "template.yaml", "site.yaml").CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// It does look: a template with a fault is found.
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	data, err := os.ReadFile("template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, bytes.Replace(data, []byte("SqsManagedSseEnabled"), []byte("SqsManagedSseEnabld"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(lint, broken).CombinedOutput(); err == nil || !strings.Contains(string(out), "SqsManagedSseEnabld") {
		t.Errorf("a misspelt property passes: %s", out)
	}
}

// The values as CloudFormation would see them, with every part switched on, are
// what the resource types' schemas allow, and policies are what IAM takes. cfn-lint
// sees the functions only.
func TestCloudTemplatesPassTheSchemas(t *testing.T) {
	python := filepath.Join(filepath.Dir(cfnLint(t)), "python")
	validate := func(tm *template, change func(name string, properties map[string]any)) string {
		resources, checked := map[string]any{}, 0
		for _, name := range tm.made("") {
			kind := tm.resource(name)["Type"].(string)
			if !strings.HasPrefix(kind, "Custom::") {
				checked++
			}
			properties := tm.properties(name)
			change(name, properties)
			resources[name] = map[string]any{"Type": kind, "Properties": properties}
		}
		input, err := json.Marshal(resources)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(python, filepath.Join("testdata", "validate.py"))
		cmd.Stdin = bytes.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		faults, last, _ := strings.Cut(string(out), fmt.Sprintf("checked %d\n", checked))
		if last != "" || !strings.HasSuffix(string(out), fmt.Sprintf("checked %d\n", checked)) {
			t.Errorf("of %d resources: %s", checked, out)
		}
		return strings.TrimSpace(faults)
	}
	unchanged := func(string, map[string]any) {}
	for _, tm := range []*template{everything(t), everySite(t), load(t, "site.yaml", map[string]any{"Site": "Nord", "SiteId": "nord"})} {
		if faults := validate(tm, unchanged); faults != "" {
			t.Error(faults)
		}
	}
	faults := validate(everything(t), func(name string, p map[string]any) {
		switch name {
		case "Queue":
			p["MessageRetentionPeriod"] = "14 days"
		case "WorkerRole":
			at(t, p, "Policies", 0, "PolicyDocument", "Statement", 0).(map[string]any)["Effect"] = "Perhaps"
		}
	})
	if !strings.HasPrefix(faults, "Queue: MessageRetentionPeriod: ") || !strings.Contains(faults, "\nWorkerRole: policy: ") || strings.Count(faults, "\n") != 1 {
		t.Errorf("a period in words and a doubtful permission: %q", faults)
	}
}
