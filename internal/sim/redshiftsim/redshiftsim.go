// Package redshiftsim stands in for the Redshift Data API (API version
// 2019-12-20) on loopback: it validates requests as the service documents it,
// hands out the same statement for the same token, and lets statements pass
// through their states one step a question. What the statements do is its
// user's.
package redshiftsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

// Options say what statements do.
type Options struct {
	// Run runs a batch as one transaction. It returns the number, from 1, and the
	// cause of the statement that fails; 0 for none. nil does nothing.
	Run func(sqls []string) (failed int, cause string)
	// Query answers a statement that is run alone. Values are string, int64,
	// float64, bool or nil.
	Query func(sql string) ([][]any, error)
	// Steps is how many states a statement passes through before its last: 1 is
	// SUBMITTED, 2 also PICKED, 3 also STARTED, which is meant by 0.
	Steps int
	// PageRows is how many rows a page of a result has; 1000 where it is 0.
	PageRows int
}

// Server is the service. Its fields and methods are safe for concurrent use.
type Server struct {
	options  Options
	listener net.Listener
	http     *http.Server

	mu         sync.Mutex
	statements []*statement
	requests   []string
	faults     []Fault
	abort      bool
}

// Fault is what happens to one request.
type Fault struct {
	Status int // of the answer; 0 for no fault
	Code   string
	// After acts on the request before it is answered so, as where an answer is
	// lost on its way.
	After bool
}

type statement struct {
	id, name, token string
	body            map[string]any
	sqls            []string
	batch           bool
	step, last      int // through steps, and how many of them
	failed          int
	cause           string
	rows            [][]any
	aborted         bool
}

// steps are the states before the last.
func steps() []string { return []string{"SUBMITTED", "PICKED", "STARTED"} }

// Start begins to serve on a free port of loopback.
func Start(o Options) (*Server, error) {
	if o.PageRows == 0 {
		o.PageRows = 1000
	}
	if o.Steps == 0 {
		o.Steps = len(steps())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, listener: l}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		// It ends by Close; anything else shows as requests that fail.
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic("BUG: the simulated Data API stopped: " + err.Error())
		}
	}()
	return s, nil
}

// URL is its address.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close ends it.
func (s *Server) Close() error { return s.http.Close() }

// Requests are the operations that were asked for, in order.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// Inject says what happens to the next requests, one each.
func (s *Server) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// Abort has statements from now on aborted, rather than run.
func (s *Server) Abort(abort bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abort = abort
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	operation, isOurs := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "RedshiftData.")
	s.requests = append(s.requests, operation)
	var fault Fault
	if len(s.faults) > 0 {
		fault, s.faults = s.faults[0], s.faults[1:]
	}
	if fault.Status != 0 && !fault.After {
		refuse(w, &failure{fault.Status, fault.Code, "injected"})
		return
	}
	body := map[string]any{}
	err := json.NewDecoder(r.Body).Decode(&body)
	if err != nil || !isOurs || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
		refuse(w, &failure{400, "SerializationException", fmt.Sprint("not a request of this protocol: ", err)})
		return
	}
	answer, failed := s.do(operation, body)
	switch {
	case fault.Status != 0:
		refuse(w, &failure{fault.Status, fault.Code, "injected, after it was done"})
	case failed != nil:
		refuse(w, failed)
	default:
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		send(w, answer)
	}
}

// failure is an answer that is an error.
type failure struct {
	status        int
	code, message string
}

func refuse(w http.ResponseWriter, f *failure) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-ErrorType", f.code)
	w.WriteHeader(f.status)
	send(w, map[string]string{"__type": f.code, "Message": f.message})
}

// send writes an answer. A client that has gone away has no use for it.
func send(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (s *Server) do(operation string, body map[string]any) (any, *failure) {
	if why := validate(operation, body); why != "" {
		return nil, &failure{400, "ValidationException", why}
	}
	switch operation {
	case "BatchExecuteStatement", "ExecuteStatement":
		return s.execute(body)
	case "ListStatements":
		return s.list(body), nil
	}
	id, _ := body["Id"].(string)
	for _, st := range s.statements {
		if st.id != id {
			continue
		}
		if operation == "DescribeStatement" {
			return st.describe(), nil
		}
		if st.status() == "FINISHED" {
			return st.result(body, s.options.PageRows), nil
		}
	}
	return nil, &failure{400, "ResourceNotFoundException", "there is no such statement, or it has no result"}
}

func (s *Server) execute(body map[string]any) (any, *failure) {
	token, _ := body["ClientToken"].(string)
	for _, st := range s.statements {
		if st.token == token {
			if !reflect.DeepEqual(st.body, body) {
				return nil, &failure{400, "ValidationException", "the token was used for another request"}
			}
			return map[string]any{"Id": st.id}, nil
		}
	}
	st := &statement{id: fmt.Sprintf("d9b6c0c9-0747-4bf4-b142-%012d", len(s.statements)), token: token, body: body, last: s.options.Steps, aborted: s.abort}
	st.name, _ = body["StatementName"].(string)
	if sql, alone := body["Sql"].(string); alone {
		st.sqls = []string{sql}
		if s.options.Query != nil && !st.aborted {
			rows, err := s.options.Query(sql)
			if st.rows = rows; err != nil {
				st.failed, st.cause = 1, err.Error()
			}
		}
	} else {
		st.batch = true
		st.sqls = texts(body["Sqls"])
		if s.options.Run != nil && !st.aborted {
			st.failed, st.cause = s.options.Run(st.sqls)
		}
	}
	s.statements = append(s.statements, st)
	return map[string]any{"Id": st.id}, nil
}

func texts(v any) (out []string) {
	list, _ := v.([]any)
	for _, e := range list {
		text, _ := e.(string)
		out = append(out, text)
	}
	return out
}

func (s *Server) list(body map[string]any) any {
	prefix, _ := body["StatementName"].(string)
	out := []map[string]any{}
	for _, st := range s.statements {
		if st.name != "" && strings.HasPrefix(st.name, prefix) {
			out = append(out, map[string]any{"Id": st.id, "StatementName": st.name, "Status": st.status()})
		}
	}
	return map[string]any{"Statements": out}
}
