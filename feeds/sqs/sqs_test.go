package sqs

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/feeds"
	"millrace/feeds/feedtest"
	"millrace/internal/secret"
	"millrace/internal/sim/awssim"
	"millrace/uploader/awsconf"
	"millrace/uploader/sinktest"
)

const queue = "north-results"

// quick is Config with times that SQS has no units for.
type quick struct{ *Config }

func (q quick) Open(s feeds.Settings) (feeds.Feed, error) {
	f, err := q.Config.Open(s)
	if err == nil {
		f.(*feed).conf.Visibility = time.Second
		f.(*feed).poll = time.Second
	}
	return f, err
}

func client(t *testing.T, s *awssim.Server) *awssqs.Client {
	t.Helper()
	return awssqs.New(awssqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(s.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""), HTTPClient: awsconf.Steady(http.DefaultClient),
	})
}

func start(t *testing.T) *feedtest.Endpoint {
	s, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := client(t, s)
	create := func() {
		if _, err := c.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String(queue)}); err != nil {
			t.Fatal(err)
		}
	}
	create()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("file:" + path)); err != nil {
		t.Fatal(err)
	}
	conf := Kind{}.NewConfig().(*Config)
	conf.QueueURL, conf.Region, conf.Endpoint = s.QueueURL(queue), "eu-central-1", s.URL(awssim.ServiceSQS)
	conf.Credentials = awsconf.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: ref}
	set := func(f awssim.Faults) func(bool) {
		return func(on bool) {
			if !on {
				f = awssim.Faults{}
			}
			s.SetFaults(awssim.ServiceSQS, f)
		}
	}
	return &feedtest.Endpoint{
		Config: quick{conf},
		Publish: func(t *testing.T, _, body string) {
			t.Helper()
			if _, err := c.SendMessage(t.Context(), &awssqs.SendMessageInput{QueueUrl: aws.String(s.QueueURL(queue)), MessageBody: &body}); err != nil {
				t.Fatal(err)
			}
		},
		Set: map[sinktest.Fault]func(bool){
			sinktest.Down: set(awssim.Faults{Down: true}), sinktest.Throttled: set(awssim.Faults{Throttled: 1}), sinktest.Denied: set(awssim.Faults{Denied: true}),
			sinktest.Expired: set(awssim.Faults{Expired: true}), sinktest.Skewed: set(awssim.Faults{Skewed: true}),
			sinktest.Missing: func(on bool) {
				if !on {
					create()
					return
				}
				if _, err := c.DeleteQueue(t.Context(), &awssqs.DeleteQueueInput{QueueUrl: aws.String(s.QueueURL(queue))}); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
}

func TestSuite(t *testing.T) { feedtest.Run(t, start) }

// TestPartOfADeletionFails: what was not deleted is told once, and comes again.
func TestPartOfADeletionFails(t *testing.T) {
	e := start(t)
	f := feedtest.Open(t, e, "")
	for range 5 {
		e.Publish(t, "", "x")
	}
	got := feedtest.Receive(t, f, 5)
	got[2].Handle = "no such handle"
	if err := f.Done(t.Context(), got); err == nil {
		t.Error("nothing is said of the one that was not deleted")
	}
	if m := feedtest.Receive(t, f, 1); m[0].Key != got[2].Key {
		t.Errorf("%s comes again, want %s", m[0].Key, got[2].Key)
	}
}

func TestValidate(t *testing.T) {
	c := Kind{}.NewConfig().(*Config)
	c.Visibility = time.Second
	paths := ""
	for _, f := range c.Validate() {
		paths += f.Path + " "
		if f.Problem == "" || f.Hint == "" {
			t.Errorf("%+v lacks a problem or a hint", f)
		}
	}
	if paths != "queue_url visibility " {
		t.Errorf("faults at %s", paths)
	}
}
