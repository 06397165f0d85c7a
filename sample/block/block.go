// Package block is the packed batch: one stream's samples in the bytes that
// are spooled, sent, stored and archived. docs/block-format.md specifies it.
package block
