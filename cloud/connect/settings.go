package connect

import (
	"fmt"
	"net/url"
	"strings"
)

// SettingError says that a setting is none, before anything was asked: on a
// command line it is a flag that is wrong.
type SettingError struct {
	Setting string // as in --endpoint
	Value   string
	Problem string // as in "is no URL"
	Hint    string // what to write instead
}

func (e *SettingError) Error() string {
	return fmt.Sprintf("%s: %q %s: %s", e.Setting, e.Value, e.Problem, e.Hint)
}

func (s Settings) check() error {
	if s.Region != "" {
		if err := CheckRegion("--region", s.Region); err != nil {
			return err
		}
	}
	if err := CheckEndpoint("--endpoint", s.Endpoint); err != nil {
		return err
	}
	return CheckEndpoint("--s3-endpoint", s.S3Endpoint)
}

// CheckEndpoint reports what is no address of a service; "" is AWS's own. setting
// names it in the *SettingError.
func CheckEndpoint(setting, value string) error {
	if value == "" {
		return nil
	}
	if u, err := url.Parse(value); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return &SettingError{setting, value, "is no URL", "write it as in http://127.0.0.1:8000, or leave it out for AWS's own"}
	}
	return nil
}

// CheckRegion reports what is no region of AWS. setting names it in the
// *SettingError.
func CheckRegion(setting, value string) error {
	if !isRegion(value) {
		return &SettingError{setting, value, "is no AWS region", "write it as in eu-central-1"}
	}
	return nil
}

// isRegion says that a text can be a region: it becomes a part of host names.
// AWS adds regions, so there is no list of them.
func isRegion(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && !strings.HasPrefix(text, "-") && !strings.HasSuffix(text, "-")
}
