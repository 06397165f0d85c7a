//go:build !failpoints

package failpoint

// Built reports whether points can be armed.
const Built = false

// At marks a point.
func At(string) {}

// On reports whether a sabotage is on: never, in this build.
func On(string) bool { return false }
