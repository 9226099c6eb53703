module github.com/onceward/coordinator/chaos

go 1.26.0

require golang.org/x/sys v0.48.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/anishathalye/porcupine v1.3.1
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/onceward/coordinator v0.0.0
	github.com/redis/go-redis/v9 v9.23.0
	go.uber.org/atomic v1.12.0 // indirect
)

replace github.com/onceward/coordinator => ../
