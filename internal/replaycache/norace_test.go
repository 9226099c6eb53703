//go:build !race

package replaycache

const raced = false
