package main

import (
	"maps"
	"testing"
)

func TestReadMetrics(t *testing.T) {
	const out = `=== RUN   TestWriteUnits
    bench_test.go:59: 200 tags at 1 s in 60 s blocks: 4 units a block of 12000 samples, 333 units a million samples
    bench_test.go:68: 50 meters of 10 tags at 10 s in 60 s blocks of shared streams: 1667 units a million samples
--- PASS: TestWriteUnits (0.10s)
BenchmarkOneCore-2                 	    3000	    209463 ns/op	  15.41 MB/s	        57.29 Msamples/s
BenchmarkSlowEndpoint/one_worker-2 	    3000	   3868271 ns/op	         3.102 Msamples/s
PASS
`
	want := map[string]float64{
		"units 200 tags at 1 s in 60 s blocks":                                333,
		"units 50 meters of 10 tags at 10 s in 60 s blocks of shared streams": 1667,
		"BenchmarkOneCore ns/op":                                              209463, "BenchmarkOneCore MB/s": 15.41, "BenchmarkOneCore Msamples/s": 57.29,
		"BenchmarkSlowEndpoint/one_worker ns/op": 3868271, "BenchmarkSlowEndpoint/one_worker Msamples/s": 3.102,
	}
	if got := readMetrics([]byte(out)); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
