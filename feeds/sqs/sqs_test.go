package sqs

import (
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/feeds"
	"millrace/feeds/feedtest"
	"millrace/internal/sim/awssim"
	"millrace/uploader/awsconf"
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

func start(t *testing.T) *feedtest.Endpoint {
	a := feedtest.StartAWS(t, awssim.ServiceSQS)
	endpoint, keys := a.Client()
	c := awssqs.New(awssqs.Options{Region: a.Conf.Region, BaseEndpoint: endpoint, Credentials: keys, HTTPClient: awsconf.Steady(http.DefaultClient)})
	create := func() {
		if _, err := c.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String(queue)}); err != nil {
			t.Fatal(err)
		}
	}
	create()
	conf := Kind{}.NewConfig().(*Config)
	conf.QueueURL, conf.Config = a.Server.QueueURL(queue), a.Conf
	return &feedtest.Endpoint{
		Config: quick{conf},
		Publish: func(t *testing.T, _, body string) {
			t.Helper()
			if _, err := c.SendMessage(t.Context(), &awssqs.SendMessageInput{QueueUrl: &conf.QueueURL, MessageBody: &body}); err != nil {
				t.Fatal(err)
			}
		},
		Set: a.Faults(func(on bool) {
			if !on {
				create()
				return
			}
			if _, err := c.DeleteQueue(t.Context(), &awssqs.DeleteQueueInput{QueueUrl: &conf.QueueURL}); err != nil {
				t.Fatal(err)
			}
		}),
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

// TestACheckTakesNothingAway: what it receives comes a second later.
func TestACheckTakesNothingAway(t *testing.T) {
	e := start(t)
	f := feedtest.Open(t, e, "")
	e.Publish(t, "", "x")
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := feedtest.Receive(t, f, 1); string(got[0].Body) != "x" {
		t.Errorf("got %q", got[0].Body)
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
