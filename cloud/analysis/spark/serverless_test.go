package spark

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/emrserverless"
)

// service plays EMR Serverless: POST /applications/{id}/jobruns starts,
// GET …/jobruns/{id} tells, DELETE ends (EMR Serverless API reference).
type service struct {
	t  *testing.T
	mu sync.Mutex

	started []map[string]any // bodies
	states  []string         // of the job, one for each question; the last stays
	asked   int
	ended   bool
	refuse  string // code of an error for StartJobRun
	onAsk   func(n int)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := func(v map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			s.t.Error(err)
		}
	}
	const runs = "/applications/00abc/jobruns"
	switch {
	case r.Method == http.MethodPost && r.URL.Path == runs:
		if s.refuse != "" {
			w.Header().Set("X-Amzn-ErrorType", s.refuse)
			w.WriteHeader(http.StatusBadRequest)
			answer(map[string]any{"message": "words"})
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		var in map[string]any
		if err := json.Unmarshal(body, &in); err != nil {
			s.t.Errorf("%s: %v", body, err)
		}
		s.started = append(s.started, in)
		answer(map[string]any{"applicationId": "00abc", "jobRunId": "job1", "arn": "arn:aws:emr-serverless:eu-central-1:1:/applications/00abc/jobruns/job1"})
	case r.Method == http.MethodGet && r.URL.Path == runs+"/job1":
		state := s.states[min(s.asked, len(s.states)-1)]
		s.asked++
		if s.onAsk != nil {
			s.onAsk(s.asked)
		}
		if state == "throttled" {
			w.Header().Set("X-Amzn-ErrorType", "ThrottlingException")
			w.WriteHeader(http.StatusTooManyRequests)
			answer(map[string]any{"message": "slower"})
			return
		}
		answer(map[string]any{"jobRun": map[string]any{"applicationId": "00abc", "jobRunId": "job1", "arn": "a", "state": state,
			"stateDetails": "details", "createdBy": "c", "executionRole": "r", "releaseLabel": "emr-7.5.0", "createdAt": 1.0, "updatedAt": 2.0,
			"jobDriver": map[string]any{"sparkSubmit": map[string]any{"entryPoint": "x"}}}})
	case r.Method == http.MethodDelete && r.URL.Path == runs+"/job1":
		s.ended = true
		answer(map[string]any{"applicationId": "00abc", "jobRunId": "job1"})
	default:
		s.t.Errorf("%s %s", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}
}

func serve(t *testing.T, s *service) *Serverless {
	t.Helper()
	s.t = t
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	api := emrserverless.New(emrserverless.Options{Region: "eu-central-1", BaseEndpoint: &server.URL, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")})
	out := NewServerless(api, "00abc", "arn:aws:iam::123456789012:role/analyze", slog.New(slog.DiscardHandler))
	out.Poll = time.Millisecond
	return out
}

var job = Job{Place: "s3://plant/archive", Script: "results/state/spark/analyze-1.py", Plan: "results/state/spark/p.json", Done: "results/state/spark/p-1/", Token: "millrace-p-1"}

// TestRequest: the SDK has taken the request for valid, and this is what it sends.
func TestRequest(t *testing.T) {
	s := &service{states: []string{"SUBMITTED", "PENDING", "throttled", "RUNNING", "SUCCESS"}}
	e := serve(t, s)
	e.Parameters, e.Timeout, e.Logs = "--conf spark.executor.memory=8g", 2*time.Hour, "s3://plant/logs/"
	if err := e.Run(context.Background(), job); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s.started)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"clientToken":"millrace-p-1",` +
		`"configurationOverrides":{"monitoringConfiguration":{"s3MonitoringConfiguration":{"logUri":"s3://plant/logs/"}}},` +
		`"executionRoleArn":"arn:aws:iam::123456789012:role/analyze","executionTimeoutMinutes":120,` +
		`"jobDriver":{"sparkSubmit":{"entryPoint":"s3://plant/archive/results/state/spark/analyze-1.py",` +
		`"entryPointArguments":["--place","s3://plant/archive","--plan","results/state/spark/p.json","--done","results/state/spark/p-1/"],` +
		`"sparkSubmitParameters":"--conf spark.executor.memory=8g"}},"name":"millrace-analyze"}]`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s.asked != 5 || s.ended {
		t.Errorf("asked %d times, ended %v", s.asked, s.ended)
	}
}

func TestJobEndsBadly(t *testing.T) {
	for _, state := range []string{"FAILED", "CANCELLED"} {
		e := serve(t, &service{states: []string{"SUBMITTED", "RUNNING", state}})
		if err := e.Run(context.Background(), job); err == nil || !strings.Contains(err.Error(), "job job1 on EMR Serverless is "+state+": details") {
			t.Error(err)
		}
	}
	// A job of an earlier run has the same token, and has ended.
	for _, state := range []string{"FAILED", "CANCELLED", "SUCCESS"} {
		e := serve(t, &service{states: []string{state}})
		if err := e.Run(context.Background(), job); !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", state, err)
		}
	}
	e := serve(t, &service{refuse: "AccessDeniedException"})
	if err := e.Run(context.Background(), job); err == nil || !strings.Contains(err.Error(), "start a job on EMR Serverless: AccessDeniedException: words; allow the action") {
		t.Error(err)
	}
	e = serve(t, &service{})
	e.Application = ""
	if err := e.Run(context.Background(), job); err == nil {
		t.Error("no application, and no error")
	}
}

// TestInterruption ends the job, so that nobody pays for it.
func TestInterruption(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{states: []string{"RUNNING"}, onAsk: func(n int) {
		if n == 3 {
			cancel()
		}
	}}
	e := serve(t, s)
	if err := e.Run(ctx, job); !errors.Is(err, context.Canceled) || !s.ended {
		t.Errorf("%v, ended %v", err, s.ended)
	}
}
