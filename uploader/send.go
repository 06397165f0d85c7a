package uploader

import (
	"context"
	"errors"
	"fmt"
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
	outcomes := c.sink.Send(ctx, blocks)
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

// sameError reports whether every outcome is one and the same error, which is
// how a sink says that the request failed as a whole.
func sameError(outcomes []error) bool {
	var first, other *SendError
	if !errors.As(outcomes[0], &first) {
		return false
	}
	for _, err := range outcomes[1:] {
		if !errors.As(err, &other) || other != first {
			return false
		}
	}
	return true
}
