package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

const (
	// EnvBin names the environment variable with the directory of initdb and postgres; none makes the tests skip.
	EnvBin = "POSTGRES_BIN"
	// EnvRequire is the one that turns a missing server into a failure, as with Redis.
	EnvRequire = "COORD_REQUIRE_SERVERS"
)

// Find returns the directory that holds initdb and postgres: of [EnvBin], where Debian puts them (the newest), or of
// the PATH.
func Find() (string, error) {
	if dir := os.Getenv(EnvBin); dir != "" {
		return usable(dir)
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is right
	slices.SortFunc(dirs, func(a, b string) int { return release(b) - release(a) })
	for _, dir := range dirs {
		if dir, err := usable(dir); err == nil {
			return dir, nil
		}
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return usable(filepath.Dir(path))
	}
	return "", fmt.Errorf("pgtest: no PostgreSQL found (apt-get install postgresql, or set %s to the directory of initdb)", EnvBin)
}

func release(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

func usable(dir string) (string, error) {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("pgtest: %s is not in %s: %w", name, dir, err)
		}
	}
	return dir, nil
}

// Need skips the test if there is no PostgreSQL, or fails it if COORD_REQUIRE_SERVERS=1.
func Need(tb testing.TB) {
	tb.Helper()
	if _, err := Find(); err != nil {
		if os.Getenv(EnvRequire) == "1" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
}
