package clouddemo

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/plant"
	"millrace/sample"
	"millrace/sample/result"
)

// The mirror's target.
const (
	targetName  = "sp1"
	keyName     = "cloud"
	setpointMin = 700
	setpointMax = 900
	// writtenWithin bounds the wait for the mirror.
	writtenWithin = 20 * time.Second
)

// mirrorYAML is the mirror's part of the gateway's configuration: its target is
// in dry run until somebody arms it.
func (w *world) mirrorYAML(keys string) string {
	return fmt.Sprintf(`mirror:
  enabled: true
  dir: %q
  keys: [{name: %s, ed25519: %q}]
  feeds:
    - name: results
      type: sqs
      queue_url: %q
      region: %s
      endpoint: %q
      %s
  targets:
    - name: %s
      mode: dry_run
      feeds: [results]
      type: float64
      unit: kW
      min: %d
      max: %d
      max_step: 100
      min_interval: 500ms
      max_age: 2h
      stale_after: 2h
      write: %s
`, filepath.Join(w.dir, "mirror"), keyName, base64.StdEncoding.EncodeToString(w.public), w.aws.QueueURL(resultsName), region,
		w.aws.URL(awssim.ServiceSQS), keys, targetName, setpointMin, setpointMax, w.plant.SetpointWrite())
}

// ask runs a command of the gateway's program beside the running one, as an
// operator would, and reads its answer.
func (w *world) ask(ctx context.Context, answer any, args ...string) error {
	cmd := exec.CommandContext(ctx, w.gateway.path, append(args, "--socket", w.socket(), "--json")...)
	out, err := cmd.Output()
	if jsonErr := json.Unmarshal(out, answer); jsonErr == nil {
		return nil // `mirror status` exits with 1 where a target is stale, and answers
	}
	if err == nil {
		err = errors.New("the answer is no JSON")
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = errors.New(lastLine(exit.Stderr))
	}
	return fmt.Errorf("millrace %s: %w", strings.Join(args, " "), err)
}

// target is what `millrace mirror` says of a target.
type target struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"`
	Version uint64 `json:"version"`
	Outcome *struct {
		Outcome string `json:"outcome"`
		Reason  string `json:"reason"`
		Detail  string `json:"detail"`
	} `json:"outcome"`
}

// arm lets the mirror write, by hand and for a while.
func (w *world) arm(ctx context.Context) error {
	var t target
	if err := w.ask(ctx, &t, "mirror", "arm", targetName, "--for", "10m"); err != nil {
		return err
	}
	if t.Mode != "armed" {
		return fmt.Errorf("target %s is in mode %q after millrace mirror arm", t.Name, t.Mode)
	}
	w.say("millrace mirror arm %s --for 10m", targetName)
	return nil
}

// mirrored waits until the mirror has done with a version.
func (w *world) mirrored(ctx context.Context, version uint64) error {
	for end := time.Now().Add(writtenWithin); ; {
		var st struct {
			Targets []target `json:"targets"`
		}
		if err := w.ask(ctx, &st, "mirror", "status"); err != nil {
			return err
		}
		if len(st.Targets) == 1 && st.Targets[0].Version >= version && st.Targets[0].Outcome != nil {
			o := st.Targets[0].Outcome
			w.say("the mirror says of version %d: %s %s %s", version, o.Outcome, o.Reason, o.Detail)
			return nil
		}
		if time.Now().After(end) {
			w.report.find("mirror", fmt.Sprintf("version %d did not come to an end within %s", version, writtenWithin))
			return nil
		}
		if !backoff.Sleep(ctx, 200*time.Millisecond) {
			return errInterrupted
		}
	}
}

// takeResult keeps a message that the queue of results has accepted.
func (w *world) takeResult(body []byte) {
	r, err := result.Parse(body)
	if err == nil {
		err = r.Verify(map[string]ed25519.PublicKey{keyName: w.public})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.refused = append(w.refused, fmt.Sprintf("a message: %v", err))
		return
	}
	w.published = append(w.published, r)
}

// outcomes lists what the mirror's status samples say of each version.
func outcomes(list []sample.Sample) (map[uint64]string, error) {
	out := map[uint64]string{}
	for i := range list {
		s := &list[i]
		if !strings.HasPrefix(s.Tag, Site+"/mirror/") || !strings.HasSuffix(s.Tag, "/status") {
			continue
		}
		var o struct {
			Outcome string `json:"outcome"`
			Version uint64 `json:"version"`
		}
		if err := json.Unmarshal([]byte(s.Value.Str()), &o); err != nil {
			return nil, fmt.Errorf("%s does not read: %w", s.Tag, err)
		}
		if o.Version > 0 {
			out[o.Version] = o.Outcome
		}
	}
	return out, nil
}

// mirrorAccount holds what was published against the logger's record, the
// outcomes that came up, and what stands in the PLC.
func (w *world) mirrorAccount(ctx context.Context) error {
	rows, _, err := w.readArchive(ctx)
	if err != nil {
		return err
	}
	list := make([]sample.Sample, len(rows))
	for i := range rows {
		list[i] = rows[i].Sample
	}
	ends, err := outcomes(list)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	stands, told := w.plant.Setpoint()
	w.report.mirrorAccount(w.published, w.refused, ends, stands, told, w.logger.mean())
	return nil
}

func (r *Report) mirrorAccount(published []*result.Result, refused []string, ends map[uint64]string, stands plant.Written, told []plant.Written, mean float64) {
	const name = "mirror"
	r.find("results queue", refused...)
	if len(published) != 1 {
		r.find("results queue", fmt.Sprintf("%d messages were published, and it should be 1", len(published)))
	}
	written := 0
	for _, p := range published {
		if !same(p.Value.Float(), mean, 0) {
			r.find("results queue", fmt.Sprintf("version %d is %s, the logger recorded %v", p.Version, p.Value, mean))
		}
		switch ends[p.Version] {
		case "written":
			written++
		case "":
			r.find(name, fmt.Sprintf("nobody says what became of version %d", p.Version))
		default:
			r.find(name, fmt.Sprintf("version %d was %s", p.Version, ends[p.Version]))
		}
		if stands.Value != float32(p.Value.Float()) || stands.Version != uint32(p.Version) {
			r.find(name, fmt.Sprintf("version %d, %s, was published, and in the PLC stands version %d, %g", p.Version, p.Value, stands.Version, stands.Value))
		}
	}
	for _, t := range told {
		if t != stands {
			r.find(name, fmt.Sprintf("the PLC was told version %d, %g, too", t.Version, t.Value))
		}
	}
	r.Stages = append(r.Stages, Stage{Name: "published to the results queue, signed", Count: len(published), Plant: -1},
		Stage{Name: "written by the mirror", Count: written, Plant: -1},
		Stage{Name: "standing in the PLC's registers", Count: min(len(told), 1), Plant: -1, Note: fmt.Sprintf("%g kW, version %d", stands.Value, stands.Version)})
}
