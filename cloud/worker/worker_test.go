package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"millrace/internal/clock"
	"millrace/sample/weektable"
)

// blocks makes n blocks of the same stream, from a minute ago on.
func blocks(t testing.TB, n int) (out [][]byte) {
	at := time.Now().Add(-time.Minute)
	for i := range n {
		out = append(out, blockOf(t, header(uint64(i+1)), at.Add(time.Duration(i)*time.Millisecond), 10))
	}
	return out
}

var (
	errThrottled = &smithy.GenericAPIError{Code: "ProvisionedThroughputExceededException", Message: "slower"}
	errDenied    = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
	errRefusal   = &smithy.GenericAPIError{Code: "ValidationException", Message: "bad item"}
	errNoTable   = &ddbtypes.ResourceNotFoundException{Message: aws.String("Requested resource not found")}
)

func TestEachBlockIsStoredThenDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 25)...)
		m.add(messageOf(t, blocks(t, 1)[0])) // twice in the queue
		w, stop := start(t, options(&log), m)
		time.Sleep(2 * time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if m.stored() != 25 || m.left() != 0 || len(m.dead) != 0 {
			t.Errorf("%d items, %d messages left, %d dead", m.stored(), m.left(), len(m.dead))
		}
		// The same block in one receive counts once, in two twice: it is stored twice then.
		if c := w.Counts(); c.Received != 26 || c.Stored < 25 || c.Stored > 26 || c.Samples != c.Stored*10 || c.Bytes == 0 || c.Poison != 0 {
			t.Errorf("%+v", c)
		}
		if n := log.count("msg=working"); n != 2 || log.count("samples_per_second=") != 2 || log.count("msg=stopped") != 1 {
			t.Errorf("%d status lines in two minutes:\n%s", n, log.text.String())
		}
	})
}

// TestUnprocessedItems: what a table leaves over is tried again, and only what
// it took is deleted.
func TestUnprocessedItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 20)...)
		var calls atomic.Int64
		m.write = func(_ context.Context, _ string, keys []string) ([]string, error) {
			switch calls.Add(1) % 4 {
			case 0:
				return nil, errThrottled
			case 1:
				return []string{"an item that nobody sent"}, nil
			case 2:
				return keys[:len(keys)/2], nil
			}
			return keys, nil
		}
		w, stop := start(t, options(&log), m)
		time.Sleep(10 * time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 0 || m.stored() != 20 {
			t.Errorf("%v, %d items, %d left", err, m.stored(), left)
		}
		if w.Counts().Throttled == 0 || w.Counts().Returned != 0 {
			t.Errorf("%+v", w.Counts())
		}
	})
}

// TestThrottlingSlowsTheReceives: a table that throttles has the queue asked less.
func TestThrottlingSlowsTheReceives(t *testing.T) {
	receives := func(write func(context.Context, string, []string) ([]string, error)) (n int) {
		synctest.Test(t, func(t *testing.T) {
			var log book
			m := newMemory(t, blocks(t, 300)...)
			m.write, m.delay = write, 10*time.Millisecond
			o := options(&log)
			o.Concurrency = 1
			_, stop := start(t, o, m)
			time.Sleep(800 * time.Millisecond)
			m.mu.Lock()
			n = m.receives
			m.mu.Unlock()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
		return n
	}
	every := false
	free := receives(nil)
	slow := receives(func(_ context.Context, _ string, keys []string) ([]string, error) {
		if every = !every; every {
			return nil, errThrottled
		}
		return nil, nil
	})
	if slow*2 > free {
		t.Errorf("%d receives while it throttles, %d without", slow, free)
	}
}

// TestMissingTableHolds: blocks of a table that is missing are put aside, said
// once a minute, and stored when it is there.
func TestMissingTableHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 5)...)
		var there atomic.Bool
		m.write = func(context.Context, string, []string) ([]string, error) {
			if !there.Load() {
				return nil, errNoTable
			}
			return nil, nil
		}
		w, stop := start(t, options(&log), m)
		time.Sleep(5*time.Minute + time.Second)
		if m.left() != 5 || m.stored() != 0 || len(m.dead) != 0 {
			t.Errorf("%d left, %d stored, %d dead", m.left(), m.stored(), len(m.dead))
		}
		if n := log.count("the table is missing"); n < 4 || n > 6 {
			t.Errorf("%d lines in five minutes:\n%s", n, log.text.String())
		}
		if n := m.received("m0"); n > 8 { // each counts towards the redrive policy
			t.Errorf("received %d times in five minutes", n)
		}
		there.Store(true)
		time.Sleep(3 * time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 0 || m.stored() != 5 {
			t.Errorf("%v, %d left, %d stored", err, left, m.stored())
		}
		if w.Counts().Held == 0 {
			t.Errorf("%+v", w.Counts())
		}
	})
}

// TestHeldForAWeek: what waits for its table for a week does not come so often
// that a redrive policy of 1000 receives takes it away.
func TestHeldForAWeek(t *testing.T) {
	w, total := &Worker{}, time.Duration(0)
	for n := range 1000 {
		m := types.Message{Attributes: map[string]string{"ApproximateReceiveCount": strconv.Itoa(n + 1)}}
		total += w.longer(time.Minute, &m)
	}
	if total < 7*24*time.Hour {
		t.Errorf("1000 receives take %v", total)
	}
	if got := w.longer(time.Minute, &types.Message{}); got != time.Minute {
		t.Errorf("a message that is not counted waits %v", got)
	}
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 1)...)
		m.seen["m0"] = 900
		m.write = func(context.Context, string, []string) ([]string, error) { return nil, errNoTable }
		_, stop := start(t, options(&log), m)
		time.Sleep(time.Hour + time.Second)
		if n := m.received("m0") - 900; n < 4 || n > 5 {
			t.Errorf("received %d times in an hour", n)
		}
		if err := stop(); err != nil || m.left() != 1 || len(m.dead) != 0 {
			t.Errorf("%v, %d left, %d dead", err, m.left(), len(m.dead))
		}
	})
}

// TestHeldBlocksDoNotSlowOthers: blocks of a table that is missing come among
// others, and these are stored as fast as without.
func TestHeldBlocksDoNotSlowOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t)
		lastWeek := weektable.Table("plant", time.Now().AddDate(0, 0, -7))
		for i, b := range blocks(t, 300) {
			if i%5 == 0 {
				h := header(uint64(1000 + i))
				m.add(messageOf(t, blockOf(t, h, time.Now().AddDate(0, 0, -7), 1)))
			}
			m.add(messageOf(t, b))
		}
		m.write = func(_ context.Context, table string, _ []string) ([]string, error) {
			if table == lastWeek {
				return nil, errNoTable
			}
			return nil, nil
		}
		_, stop := start(t, options(&log), m)
		time.Sleep(5 * time.Second)
		if n := m.stored(); n != 300 {
			t.Errorf("%d of 300 blocks are stored after 5 s", n)
		}
		if err := stop(); err != nil || m.left() != 60 {
			t.Errorf("%v, %d left", err, m.left())
		}
	})
}

// TestSlowTableDoesNotSlowOthers: the blocks of a week whose writes were dialled
// down wait, and nothing else does. They go on when the table takes them.
func TestSlowTableDoesNotSlowOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		var open atomic.Bool
		m := newMemory(t)
		lastWeek := weektable.Table("plant", time.Now().AddDate(0, 0, -7))
		for i, b := range blocks(t, 300) {
			if i%5 == 0 {
				m.add(messageOf(t, blockOf(t, header(uint64(1000+i)), time.Now().AddDate(0, 0, -7), 1)))
			}
			m.add(messageOf(t, b))
		}
		m.write = func(_ context.Context, table string, _ []string) ([]string, error) {
			if table == lastWeek && !open.Load() {
				return nil, &ddbtypes.ProvisionedThroughputExceededException{}
			}
			return nil, nil
		}
		_, stop := start(t, options(&log), m)
		time.Sleep(time.Minute)
		if n := m.stored(); n != 300 || log.count("others have to go on") != 1 {
			t.Errorf("%d of 300 blocks are stored after a minute, log %s", n, log.text.String())
		}
		open.Store(true)
		time.Sleep(3 * time.Minute)
		if err := stop(); err != nil || m.left() != 0 || m.stored() != 360 {
			t.Errorf("%v, %d left, %d stored", err, m.left(), m.stored())
		}
	})
}

// TestDeniedHolds: nothing is dropped while the right is missing.
func TestDeniedHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 5)...)
		var allowed atomic.Bool
		m.write = func(context.Context, string, []string) ([]string, error) {
			if !allowed.Load() {
				return nil, errDenied
			}
			return nil, nil
		}
		_, stop := start(t, options(&log), m)
		time.Sleep(4 * time.Minute)
		if n := log.count("AccessDeniedException: no; allow the action"); n < 3 || n > 5 || m.left() != 5 {
			t.Errorf("%d lines in four minutes, %d left", n, m.left())
		}
		allowed.Store(true)
		time.Sleep(time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 0 || m.stored() != 5 {
			t.Errorf("%v, %d left, %d stored", err, left, m.stored())
		}
	})
}

// TestOneItemRefused: the item at fault goes to the dead letters, the others are
// stored; where a table takes nothing at all, it is the table.
func TestOneItemRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		list := blocks(t, 5)
		m := newMemory(t, list...)
		bad := fmt.Sprintf("#%020d#", 3)
		m.write = func(_ context.Context, _ string, keys []string) ([]string, error) {
			if slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(k, bad) }) {
				return nil, errRefusal
			}
			return nil, nil
		}
		_, stop := start(t, options(&log), m)
		time.Sleep(3 * time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 0 || m.stored() != 4 {
			t.Errorf("%v, %d left, %d stored", err, left, m.stored())
		}
		if r := m.reasons(); len(r) != 1 || r[0] != "DynamoDB refuses its item: ValidationException: bad item" {
			t.Errorf("%q", r)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 5)...)
		m.write = func(context.Context, string, []string) ([]string, error) { return nil, errRefusal }
		_, stop := start(t, options(&log), m)
		time.Sleep(3 * time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 5 || len(m.dead) != 0 || log.count("has taken none since the start") == 0 {
			t.Errorf("%v, %d left, %d dead\n%s", err, left, len(m.dead), log.text.String())
		}
	})
}

// TestPoisonGoesToTheDeadLetters, with its own attributes and the reason.
func TestPoisonGoesToTheDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 3)...)
		foreign := messageOf(t, blocks(t, 1)[0])
		foreign.Body = aws.String("no block")
		m.add(foreign)
		full := messageOf(t, blocks(t, 1)[0])
		set(&full, "schema", "String", "acme")
		set(&full, "zz-tenth", "String", "x")
		m.add(full)
		_, stop := start(t, options(&log), m)
		time.Sleep(30 * time.Second)
		left := m.left()
		if err := stop(); err != nil || left != 0 || m.stored() != 3 || len(m.dead) != 2 {
			t.Fatalf("%v, %d left, %d stored, %d dead", err, left, m.stored(), len(m.dead))
		}
		if *m.dead[0].MessageBody != "no block" || *m.dead[0].MessageAttributes["gateway"].StringValue != "gw1" || len(m.dead[0].MessageAttributes) != 10 {
			t.Errorf("%+v", m.dead[0])
		}
		if r := m.reasons(); !strings.Contains(r[0], "not base64") || !strings.Contains(r[1], "attributes left out to make room for this one: zz-tenth") {
			t.Errorf("%q", r)
		}
	})
}

// TestDeadLettersThatFail: poison is deleted only when the dead-letter queue has
// taken it.
func TestDeadLettersThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t)
		foreign := messageOf(t, blocks(t, 1)[0])
		foreign.Body = aws.String("no block")
		m.add(foreign)
		m.bury = func(n int) (string, error) {
			switch n {
			case 1:
				return "", errDenied
			case 2:
				return "InternalError", nil
			}
			return "", nil
		}
		o := options(&log)
		_, stop := start(t, o, m)
		time.Sleep(2*o.Visibility - time.Second)
		if m.left() != 1 || log.count("poison cannot be sent to the dead-letter queue") != 2 {
			t.Errorf("%d left\n%s", m.left(), log.text.String())
		}
		time.Sleep(o.Visibility)
		left := m.left()
		if err := stop(); err != nil || left != 0 || len(m.dead) != 1 {
			t.Errorf("%v, %d left, %d dead", err, left, len(m.dead))
		}
	})
}

// TestFIFODeadLetters have a group and an id by which they come once.
func TestFIFODeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t)
		foreign := messageOf(t, blocks(t, 1)[0])
		foreign.Body, foreign.Attributes = aws.String("no block"), map[string]string{"MessageGroupId": "north"}
		m.add(foreign)
		foreign.Attributes = nil
		m.add(foreign)
		o := options(&log)
		o.DeadLetterURL += ".fifo"
		_, stop := start(t, o, m)
		time.Sleep(time.Minute)
		if err := stop(); err != nil || len(m.dead) != 2 {
			t.Fatalf("%v, %d dead", err, len(m.dead))
		}
		groups := map[string]string{}
		for _, d := range m.dead {
			groups[*d.MessageDeduplicationId] = *d.MessageGroupId
		}
		if groups["m0"] != "north" || groups["m1"] != "poison" {
			t.Errorf("%v", groups)
		}
	})
}

// TestNoDeadLetterQueue: poison is left where it is, and said once a minute.
func TestNoDeadLetterQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 3)...)
		foreign := messageOf(t, blocks(t, 1)[0])
		foreign.Body = aws.String("no block")
		m.add(foreign)
		o := options(&log)
		o.DeadLetterURL, o.Visibility = "", 10*time.Second
		_, stop := start(t, o, m)
		time.Sleep(3*time.Minute - time.Second)
		left := m.left()
		if err := stop(); err != nil || left != 1 || m.stored() != 3 || len(m.changes) != 0 {
			t.Errorf("%v, %d left, %d stored, %v", err, left, m.stored(), m.changes)
		}
		if n := log.count("left to the queue's redrive policy"); n != 3 {
			t.Errorf("%d lines in three minutes", n)
		}
	})
}

// TestVisibilityIsExtended: while a write takes its time, no other worker gets
// the message.
func TestVisibilityIsExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log book
		m := newMemory(t, blocks(t, 1)...)
		until := time.Now().Add(10 * time.Minute)
		m.write = func(context.Context, string, []string) ([]string, error) {
			if time.Now().Before(until) {
				return nil, errThrottled
			}
			return nil, nil
		}
		o := options(&log)
		o.Visibility = 30 * time.Second
		_, stop1 := start(t, o, m)
		_, stop2 := start(t, o, m)
		time.Sleep(11 * time.Minute)
		left := m.left()
		if err := errors.Join(stop1(), stop2()); err != nil || left != 0 || m.seen["m0"] != 1 {
			t.Errorf("%v, %d left, received %d times", err, left, m.seen["m0"])
		}
		if slices.ContainsFunc(m.changes, func(v int32) bool { return v != 30 }) || len(m.changes) < 39 {
			t.Errorf("%d extensions: %v", len(m.changes), m.changes)
		}
	})
}

// TestStopGivesBack: after a signal what hangs is abandoned and given back at
// once, all within 100 s.
func TestStopGivesBack(t *testing.T) {
	for name, write := range map[string]func(context.Context, string, []string) ([]string, error){
		"hangs":     func(ctx context.Context, _ string, _ []string) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() },
		"throttles": func(context.Context, string, []string) ([]string, error) { return nil, errThrottled },
	} {
		synctest.Test(t, func(t *testing.T) {
			var log book
			m := newMemory(t, blocks(t, 12)...)
			m.write = write
			_, stop := start(t, options(&log), m)
			time.Sleep(time.Second)
			at := time.Now()
			err := stop()
			if took := time.Since(at); err != nil || took > 100*time.Second || name == "throttles" && took > time.Second {
				t.Errorf("%s: %v after %v", name, err, took)
			}
			for _, h := range m.messages {
				if h == nil || h.visible.After(time.Now()) {
					t.Errorf("%s: a message was deleted or is not visible", name)
				}
			}
			if len(m.seen) < 4 || len(m.changes) != len(m.seen) || slices.Max(m.changes) != 0 {
				t.Errorf("%s: visibilities %v of %d messages received", name, m.changes, len(m.seen))
			}
		})
	}
}

// TestMoreWorkersMoreWork: two workers at the same concurrency do at least 1.8
// times as much as one, where every call takes 50 ms.
func TestMoreWorkersMoreWork(t *testing.T) {
	drain := func(workers int) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var log book
			m := newMemory(t, blocks(t, 1200)...)
			m.delay = 50 * time.Millisecond
			o := options(&log)
			o.Concurrency = 2
			began := time.Now()
			var stops []func() error
			for range workers {
				_, stop := start(t, o, m)
				stops = append(stops, stop)
			}
			for m.left() > 0 {
				time.Sleep(5 * time.Millisecond)
			}
			took = time.Since(began)
			for _, stop := range stops {
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			}
		})
		return took
	}
	one, two := drain(1), drain(2)
	t.Logf("one worker %v, two %v", one, two)
	if float64(one)/float64(two) < 1.8 {
		t.Errorf("one worker %v, two %v", one, two)
	}
}

// TestPlaces: each block goes to the table of its week, or where blocks go that
// have none.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at 2000-01-01
		now := time.Now()
		var log book
		at := func(seq uint64, d time.Duration) []byte { return blockOf(t, header(seq), now.Add(d), 3) }
		const day = 24 * time.Hour
		m := newMemory(t, at(1, -time.Hour), at(2, -8*day), at(3, 2*day), at(4, -400*day), at(5, 12*time.Hour))
		o := options(&log)
		o.Clock = clock.System{}
		_, stop := start(t, o, m)
		time.Sleep(time.Minute)
		left := m.left()
		if err := stop(); err != nil || left != 0 {
			t.Fatal(err, left)
		}
		got := map[string]int{}
		for key := range m.items {
			table, _, _ := strings.Cut(key, "\x00")
			got[table]++
		}
		want := map[string]int{weektable.Table("plant", now): 2, weektable.Table("plant", now.Add(-8*day)): 1, "plant-samples-unplaced": 2}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

func TestSettings(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"prefix":             func(o *Options) { o.Prefix = "a b" },
		"queue":              func(o *Options) { o.QueueURL = "arn:aws:sqs:eu-central-1:1:plant" },
		"dead letters":       func(o *Options) { o.DeadLetterURL = "dead" },
		"its own dead queue": func(o *Options) { o.DeadLetterURL = o.QueueURL },
		"concurrency":        func(o *Options) { o.Concurrency = 17 },
		"visibility":         func(o *Options) { o.Visibility = 0 },
	} {
		o := options(&book{})
		change(&o)
		if _, err := New(o, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestSizer: large messages are asked for one at a time, small ones by ten.
func TestSizer(t *testing.T) {
	s := sizer{share: bodyBudget / 4}
	s.seen.Store(maxBody)
	if n := s.ask(); n != 1 {
		t.Errorf("at first %d", n)
	}
	for range 50 {
		s.note(5000)
	}
	if n := s.ask(); n != maxReceive {
		t.Errorf("small ones: %d", n)
	}
	s.note(maxBody)
	if n := s.ask(); n != 1 {
		t.Errorf("after a large one %d", n)
	}
}
