// Package all lists the kinds of sinks, one line each.
package all

import (
	"millrace/uploader"
	"millrace/uploader/dynamodb"
	"millrace/uploader/file"
	"millrace/uploader/sqs"
)

// List returns every kind of sink that a configuration can name.
func List() []uploader.Kind {
	return []uploader.Kind{
		dynamodb.Kind{},
		file.Kind{},
		sqs.Kind{},
	}
}
