package uploader

import (
	"context"
	"errors"
	"fmt"

	"millrace/internal/failpoint"
)

// result is what came of one request.
type result struct {
	req      *request
	outcomes []error // one per item
}

// send makes one try, within the time limit, and hands the result back.
func (c *cycle) send(ctx context.Context, req *request) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	blocks := make([]Block, len(req.items))
	for i, it := range req.items {
		blocks[i] = it.block
	}
	failpoint.At("uploader: send")
	outcomes := c.sink.Send(ctx, blocks)
	failpoint.At("uploader: sent")
	if len(outcomes) != len(blocks) {
		// Without a clear answer for each block none counts as delivered.
		err := fmt.Errorf("BUG: the sink returned %d outcomes for %d blocks", len(outcomes), len(blocks))
		outcomes = make([]error, len(blocks))
		for i := range outcomes {
			outcomes[i] = err
		}
	}
	c.results <- result{req, outcomes}
}

// sharedErrors returns a function that tells whether an outcome's error is also
// another block's, which is how a sink says that a request failed as a whole.
func sharedErrors(outcomes []error) func(error) bool {
	blocks := map[*SendError]int{}
	of := func(err error) *SendError {
		var se *SendError
		errors.As(err, &se)
		return se
	}
	for _, err := range outcomes {
		if err != nil {
			blocks[of(err)]++
		}
	}
	return func(err error) bool { return blocks[of(err)] > 1 }
}
