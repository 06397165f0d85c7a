package sample

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTagBytes is the longest full tag name, in bytes.
const MaxTagBytes = 255

// JoinTag builds the full name site/device/name. A name that holds a slash
// already carries its device ("meter07/voltage") and the device argument is
// not used; further slashes belong to the name.
func JoinTag(site, device, name string) string {
	if strings.Contains(name, "/") {
		return site + "/" + name
	}
	return site + "/" + device + "/" + name
}

// CheckTag reports why tag is not a full tag name: at least three parts
// between slashes, none empty, valid UTF-8, at most MaxTagBytes, no control
// character and no '#' (it separates the parts of a storage key).
func CheckTag(tag string) error {
	if len(tag) > MaxTagBytes {
		return fmt.Errorf("tag name of %d bytes, the most is %d", len(tag), MaxTagBytes)
	}
	if strings.Count(tag, "/") < 2 {
		return fmt.Errorf("tag %q is not site/device/name", tag)
	}
	for part := range strings.SplitSeq(tag, "/") {
		if err := CheckName(part); err != nil {
			return fmt.Errorf("tag %q: %w", tag, err)
		}
	}
	return nil
}

// CheckName reports why s cannot be one part of a tag name, a site or a
// gateway id.
func CheckName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a part of the name is empty")
	case !utf8.ValidString(s):
		return fmt.Errorf("the name is not valid UTF-8")
	case strings.ContainsAny(s, "/#"):
		return fmt.Errorf("the name %q holds '/' or '#'", s)
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("the name %q holds a control character", s)
		}
	}
	return nil
}
