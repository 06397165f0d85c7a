package feedtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"millrace/internal/secret"
	"millrace/internal/sim/awssim"
	"millrace/uploader/awsconf"
	"millrace/uploader/sinktest"
)

// AWS is a simulated service of AWS.
type AWS struct {
	Server  *awssim.Server
	service string
	// Conf are the settings that lead to it.
	Conf awsconf.Config
}

// StartAWS starts one that the test stops.
func StartAWS(t *testing.T, service string) *AWS {
	t.Helper()
	s, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	return &AWS{Server: s, service: service, Conf: awsconf.Config{
		Region: "eu-central-1", Endpoint: s.URL(service), Credentials: awsconf.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: ref},
	}}
}

// Client returns what a client of the test's own is made of.
func (a *AWS) Client() (endpoint *string, keys aws.CredentialsProvider) {
	return aws.String(a.Conf.Endpoint), credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")
}

// Faults are the ways in which it fails; missing drops what the feed reads
// from, and makes it again.
func (a *AWS) Faults(missing func(on bool)) map[sinktest.Fault]func(on bool) {
	set := func(f awssim.Faults) func(bool) {
		return func(on bool) {
			if !on {
				f = awssim.Faults{}
			}
			a.Server.SetFaults(a.service, f)
		}
	}
	return map[sinktest.Fault]func(bool){
		sinktest.Down: set(awssim.Faults{Down: true}), sinktest.Throttled: set(awssim.Faults{Throttled: 1}), sinktest.Denied: set(awssim.Faults{Denied: true}),
		sinktest.Expired: set(awssim.Faults{Expired: true}), sinktest.Skewed: set(awssim.Faults{Skewed: true}), sinktest.Missing: missing,
	}
}
