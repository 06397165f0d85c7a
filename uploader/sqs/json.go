package sqs

import "errors"

func makeJSON([]byte) (string, error) { return "", errors.New("pending") }
