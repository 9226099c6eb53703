//go:build race

package main

// raced: the race detector drops what pools keep, so that allocations cannot be counted.
const raced = true
