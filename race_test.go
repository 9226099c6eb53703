//go:build race

package coordinator

// raced: the race detector makes miniredis, which runs each script in an interpreter of its own, three times slower.
const raced = true
