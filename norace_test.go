//go:build !race

package coordinator

const raced = false
