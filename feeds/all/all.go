// Package all lists the kinds of feed that the gateway knows, one line each.
package all

import (
	"millrace/feeds"
	"millrace/feeds/dynamodb"
	"millrace/feeds/sqs"
	"millrace/feeds/weektable"
)

// List returns every kind of feed.
func List() []feeds.Kind {
	return []feeds.Kind{dynamodb.Kind{}, sqs.Kind{}, weektable.Kind{}}
}
