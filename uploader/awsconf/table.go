package awsconf

import (
	"fmt"
	"regexp"
)

// tableForm is DynamoDB's own rule: Developer Guide, "Supported data types and
// naming rules".
var tableForm = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)

// CheckTable reports why a table cannot have that name.
func CheckTable(name string) error {
	if !tableForm.MatchString(name) {
		return fmt.Errorf("%q is not the name of a table: 3 to 255 letters, digits, '_', '-' or '.'", name)
	}
	return nil
}
