package worker

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/internal/weekitem"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// The schemas of messages, as docs/sinks.md has them.
const (
	schemaBlock = "millrace.block.v"
	schemaJSON  = "millrace.json.v"
)

// parcel is one message on its way.
type parcel struct {
	message *types.Message
	header  block.Header
	data    []byte // the block's bytes as they came
	reason  string // why it is poison
}

// open checks a message and takes its block out, without decoding more than the
// block's header. sites are the sites whose blocks are taken; none takes all. It
// returns in words why a message is none of ours or not whole, "" where it is.
func (p *parcel) open(sites map[string]bool) string {
	schema := p.attribute("schema")
	version, packed := strings.CutPrefix(schema, schemaBlock)
	switch {
	case schema == "":
		return "no attribute schema: this is no message of millrace"
	case strings.HasPrefix(schema, schemaJSON):
		return "the JSON form: a table keeps a block's own bytes, which it does not have; set format: block on the gateway's sink"
	case !packed:
		return fmt.Sprintf("schema %.80q is none of millrace's blocks", schema)
	}
	data, err := base64.StdEncoding.DecodeString(aws.ToString(p.message.Body))
	if err != nil {
		return fmt.Sprintf("the body is not base64: %v", err)
	}
	h, err := block.ReadHeader(data)
	switch {
	case errors.Is(err, block.ErrVersion):
		return fmt.Sprintf("%v: a newer worker may; move it back to the queue then", err)
	case err != nil:
		return err.Error()
	case version != strconv.Itoa(int(h.Version())):
		return fmt.Sprintf("attribute schema is %.80q, and the block has version %d", schema, h.Version())
	}
	for _, f := range [...]struct{ name, want string }{
		{"site", h.Site}, {"gateway", h.Gateway}, {"stream", h.Stream},
		{"epoch", fmt.Sprintf("%016x", h.Epoch)}, {"seq", strconv.FormatUint(h.Seq, 10)},
		{"first", strconv.FormatInt(h.First, 10)}, {"last", strconv.FormatInt(h.Last, 10)}, {"count", strconv.Itoa(h.Count)},
	} {
		if got := p.attribute(f.name); got != f.want {
			return fmt.Sprintf("attribute %s is %.80q, and the block's header says %.80q", f.name, got, f.want)
		}
	}
	if len(sites) > 0 && !sites[h.Site] {
		return fmt.Sprintf("site %.80q is not among those of this worker (--site)", h.Site)
	}
	if _, err := weektable.ParseKeys(weektable.Keys(&h, weektable.Checksum(data))); err != nil {
		return fmt.Sprintf("its names make no keys: %v", err)
	}
	if n := weekitem.Size(&h, len(data)); n > weekitem.MaxItemBytes {
		return fmt.Sprintf("its item has %d bytes, and DynamoDB takes %d; lower batch.max_bytes of the gateway's source", n, weekitem.MaxItemBytes)
	}
	p.header, p.data = h, data
	return ""
}

// attribute returns a message attribute that is text, "" where there is none.
func (p *parcel) attribute(name string) string {
	return aws.ToString(p.message.MessageAttributes[name].StringValue)
}
