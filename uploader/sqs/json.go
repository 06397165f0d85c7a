package sqs

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"sync"

	"millrace/sample/block"
	"millrace/uploader"
)

// jsonBodies makes bodies in the JSON form. Its size is known only once it is
// made, so bodies are kept between Size and Send, a bounded number of them.
type jsonBodies struct {
	most int

	mu      sync.Mutex
	kept    map[uint64]jsonBody
	decoder *block.Decoder
	text    []byte
}

type jsonBody struct {
	text string
	err  error
}

func newJSONBodies(most int) (*jsonBodies, error) {
	d, err := block.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &jsonBodies{most: most, kept: map[uint64]jsonBody{}, decoder: d}, nil
}

func (j *jsonBodies) body(b *uploader.Block) (string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if made, ok := j.kept[b.Number]; ok {
		return made.text, made.err
	}
	var made jsonBody
	made.text, made.err = j.make(b.Data)
	if len(j.kept) >= j.most {
		delete(j.kept, slices.Min(slices.Collect(maps.Keys(j.kept))))
	}
	j.kept[b.Number] = made
	return made.text, made.err
}

// make returns base64 of the gzipped JSON form. The same block makes the same
// bytes: the gzip header holds no time.
func (j *jsonBodies) make(data []byte) (string, error) {
	decoded, err := j.decoder.Decode(data)
	if err != nil {
		return "", fmt.Errorf("decode: %w", err)
	}
	j.text = block.AppendJSON(j.text[:0], decoded)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(j.text); err != nil {
		return "", fmt.Errorf("gzip: %w", err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("gzip: %w", err)
	}
	if cap(j.text) > maxBytes {
		j.text = nil
	}
	return base64.StdEncoding.EncodeToString(packed.Bytes()), nil
}

// size is that of the body; a block that cannot be made into one counts as
// empty, and Send says why.
func (j *jsonBodies) size(b *uploader.Block) int {
	text, _ := j.body(b) // Send says why it cannot be made
	return len(text)
}

func (j *jsonBodies) forget(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.kept, number)
}
