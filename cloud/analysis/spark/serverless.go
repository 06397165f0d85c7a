package spark

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/emrserverless"
	"github.com/aws/aws-sdk-go-v2/service/emrserverless/types"

	"millrace/cloud/connect"
)

// API is what is used of EMR Serverless.
type API interface {
	StartJobRun(context.Context, *emrserverless.StartJobRunInput, ...func(*emrserverless.Options)) (*emrserverless.StartJobRunOutput, error)
	GetJobRun(context.Context, *emrserverless.GetJobRunInput, ...func(*emrserverless.Options)) (*emrserverless.GetJobRunOutput, error)
	CancelJobRun(context.Context, *emrserverless.CancelJobRunInput, ...func(*emrserverless.Options)) (*emrserverless.CancelJobRunOutput, error)
}

// Serverless runs jobs on EMR Serverless.
type Serverless struct {
	API         API
	Application string // id of the application, release emr-7.0.0 (Spark 3.5) or later
	Role        string // ARN of the role that the job runs as
	// Parameters are handed to spark-submit, as in "--conf spark.executor.memory=8g".
	Parameters string
	// Timeout ends a job that takes longer; EMR's own is 12 hours.
	Timeout time.Duration
	Logs    string // s3:// prefix for the job's logs; "": EMR keeps them 30 days
	Poll    time.Duration
	Log     *slog.Logger
}

// grace is for how long a job is asked to end after an interruption.
const grace = 30 * time.Second

// Run implements Runner. The client token makes one job of a request that is sent
// again, also by a later process: it then waits for the job that runs.
func (s *Serverless) Run(ctx context.Context, j Job) error {
	submit := &types.SparkSubmit{EntryPoint: aws.String(j.Place + "/" + j.Script), EntryPointArguments: j.Args()}
	if s.Parameters != "" {
		submit.SparkSubmitParameters = &s.Parameters
	}
	in := &emrserverless.StartJobRunInput{
		ApplicationId: &s.Application, ExecutionRoleArn: &s.Role, ClientToken: &j.Token, Name: aws.String("millrace-analyze"),
		JobDriver: &types.JobDriverMemberSparkSubmit{Value: *submit},
	}
	if s.Timeout > 0 {
		in.ExecutionTimeoutMinutes = aws.Int64(max(5, int64(s.Timeout/time.Minute)))
	}
	if s.Logs != "" {
		in.ConfigurationOverrides = &types.ConfigurationOverrides{MonitoringConfiguration: &types.MonitoringConfiguration{
			S3MonitoringConfiguration: &types.S3MonitoringConfiguration{LogUri: &s.Logs}}}
	}
	started, err := s.API.StartJobRun(ctx, in)
	if err != nil {
		return fmt.Errorf("start a job on EMR Serverless: %s", connect.Brief(err))
	}
	id := aws.ToString(started.JobRunId)
	state, err := s.state(ctx, id)
	if err == nil && ended(state.State) {
		return ErrStale
	}
	s.Log.Info("job is started", "job", id, "application", s.Application)
	shown := types.JobRunState("")
	for {
		switch {
		case ctx.Err() != nil:
			return s.cancel(ctx, id)
		case err != nil && connect.ClassOf(err) != connect.Transient && connect.ClassOf(err) != connect.Throttled:
			return fmt.Errorf("ask for job %s: %s", id, connect.Brief(err))
		case err == nil && state.State != shown:
			shown = state.State
			s.Log.Info("job", "job", id, "state", string(shown))
		}
		if err == nil && ended(state.State) {
			if state.State == types.JobRunStateSuccess {
				return nil
			}
			return fmt.Errorf("job %s on EMR Serverless is %s: %s; its log is in the application's page", id, state.State, aws.ToString(state.StateDetails))
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.Poll):
			state, err = s.state(ctx, id)
		}
	}
}

func (s *Serverless) state(ctx context.Context, id string) (*types.JobRun, error) {
	out, err := s.API.GetJobRun(ctx, &emrserverless.GetJobRunInput{ApplicationId: &s.Application, JobRunId: &id})
	if err != nil {
		return nil, err
	}
	if out.JobRun == nil {
		return nil, errors.New("the answer has no job")
	}
	return out.JobRun, nil
}

func ended(s types.JobRunState) bool {
	return s == types.JobRunStateSuccess || s == types.JobRunStateFailed || s == types.JobRunStateCancelled
}

// cancel ends a job after an interruption, so that nobody pays for it.
func (s *Serverless) cancel(ctx context.Context, id string) error {
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer stop()
	if _, err := s.API.CancelJobRun(late, &emrserverless.CancelJobRunInput{ApplicationId: &s.Application, JobRunId: &id}); err != nil {
		return fmt.Errorf("job %s could not be ended and may run on: %s; end it in the application's page", id, connect.Brief(err))
	}
	s.Log.Info("job is ended", "job", id)
	return context.Cause(ctx)
}

// NewClient makes a client of EMR Serverless. endpoint replaces its own address,
// for a local stand-in or a VPC endpoint; "" leaves it.
func NewClient(cfg aws.Config, endpoint string) *emrserverless.Client {
	return emrserverless.NewFromConfig(cfg, func(o *emrserverless.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	})
}

// NewServerless has what is not left to its user.
func NewServerless(api API, application, role string, log *slog.Logger) *Serverless {
	return &Serverless{API: api, Application: application, Role: role, Poll: 10 * time.Second, Log: log}
}
