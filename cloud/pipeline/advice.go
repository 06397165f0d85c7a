package pipeline

import "fmt"

// Advice says in one line what there is to do next. runs are the last ones, the
// newest first, and holder is who has the lock, nil where nobody has.
func Advice(runs []Record, holder *Holder) string {
	switch {
	case holder != nil:
		return fmt.Sprintf("wait; if that process is gone, the next `millrace-cloud pipeline run` takes its lock %v after it has looked for a sign of life", holder.Lease)
	case len(runs) == 0:
		return "nothing has run with this prefix yet: `millrace-cloud pipeline run`"
	}
	r := &runs[0]
	at := r.At()
	switch {
	case r.State == Done || at == nil:
		return "nothing to do; the schedule starts the next run"
	case at.State == Failed:
		return fmt.Sprintf("stage %s failed: %s; mend that, then `millrace-cloud pipeline run` goes on there", at.Name, at.Error)
	}
	return fmt.Sprintf("the run ended in stage %s without failing: `millrace-cloud pipeline run` goes on there", at.Name)
}
