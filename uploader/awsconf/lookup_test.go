package awsconf

import (
	"testing"

	"millrace/uploader"
)

// TestAMissingQueueIsHeldUnderAnyName: a queue that is not there must never
// cost a block, whatever dialect the endpoint speaks.
func TestAMissingQueueIsHeldUnderAnyName(t *testing.T) {
	for _, code := range []string{"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "com.amazonaws.sqs#QueueDoesNotExist"} {
		if class, _ := CodeClass(code, true); class != uploader.Hold {
			t.Errorf("%s is %v", code, class)
		}
	}
	if class, _ := CodeClass("com.amazonaws.sqs#NoSuchThing", true); class != uploader.Permanent {
		t.Errorf("an unknown fault of ours is %v", class)
	}
}
