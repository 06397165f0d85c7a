// Package failpoint names the places in the code where a process may be
// killed. In a usual build they are nothing at all: the calls compile to no
// code. With the build tag failpoints, which only the fault battery uses, the
// environment arms them:
//
//	MILLRACE_FAILPOINT=name:n    SIGKILL when the point is reached the n-th time
//	MILLRACE_FAILPOINT_PARENT=1  and of the parent, where the point is in a child of it
//	MILLRACE_FAILPOINT_TRACE=f   append the name of each point reached to file f
//	MILLRACE_SABOTAGE=name       break a guarantee on purpose: see On
//
// No configuration reaches any of this.
package failpoint

// The sabotages, by which the battery is shown to notice.
const (
	// NoSync opens the spool's files without fsync.
	NoSync = "nosync"
	// AckEarly acknowledges samples before they are committed.
	AckEarly = "ack-early"
)
