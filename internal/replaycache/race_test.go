//go:build race

package replaycache

// raced: the race detector takes memory of its own, so that memory cannot be measured.
const raced = true
