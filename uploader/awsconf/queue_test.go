package awsconf

import "testing"

func TestRegionOfAQueue(t *testing.T) {
	for url, want := range map[string]string{
		"https://sqs.eu-central-1.amazonaws.com/1/q": "eu-central-1", "https://sqs.cn-north-1.amazonaws.com.cn/1/q": "cn-north-1",
		"https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/1/q": "", "http://127.0.0.1:1/0/q": "",
	} {
		if got := regionOf(url); got != want {
			t.Errorf("the region of %s is %q, want %q", url, got, want)
		}
	}
}
