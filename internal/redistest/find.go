package redistest

import (
	"fmt"
	"os"
	"os/exec"
)

// EnvServer names the environment variable which chooses the redis-server
// binary, so that the tests can be run against several versions of Redis.
const EnvServer = "REDIS_SERVER"

// Find returns the path of the redis-server binary. Its error says what is
// missing and how to get it, because it is shown to whoever runs the tests.
func Find() (string, error) {
	name := os.Getenv(EnvServer)
	if name == "" {
		name = "redis-server"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("redistest: no redis-server found (apt-get install redis-server, or set %s to its path): %w", EnvServer, err)
	}
	return path, nil
}
