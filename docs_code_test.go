package coordinator_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// goBlock is a block of Go on a page, and where it begins there.
type goBlock struct {
	page string
	line int
	text string
}

func goBlocks(t *testing.T) (all []goBlock) {
	t.Helper()
	texts := pages(t)
	for _, page := range slices.Sorted(maps.Keys(texts)) {
		found := 0
		for _, at := range fence.FindAllStringSubmatchIndex(texts[page], -1) {
			if language := texts[page][at[2]:at[3]]; language == "go" {
				found++
				all = append(all, goBlock{page, 1 + strings.Count(texts[page][:at[4]], "\n"), texts[page][at[4]:at[5]]})
			}
		}
		if n := len(regexp.MustCompile("(?m)^[ \t>]*```+ *[Gg]o").FindAllString(texts[page], -1)); n != found {
			t.Errorf("%s has %d Go blocks, of which this test sees %d", page, n, found)
		}
	}
	return all
}

// blockImports are the packages that blocks may use without saying so.
var blockImports = map[string]string{
	"bytes": "bytes", "context": "context", "errors": "errors", "fmt": "fmt", "log": "log", "slog": "log/slog", "http": "net/http",
	"slices": "slices", "strings": "strings", "testing": "testing", "time": "time", "sha256": "crypto/sha256",
	"redis": "github.com/redis/go-redis/v9", "coordinator": module, "coordtest": module + "/coordtest", "coordprom": module + "/coordprom",
	"coordslog": module + "/coordslog", "coordhttp": module + "/coordhttp", "coordmsg": module + "/coordmsg", "coordpg": module + "/coordpg", "pgx": "github.com/jackc/pgx/v5", "pgxpool": "github.com/jackc/pgx/v5/pgxpool", "coordgrpc": module + "/coordgrpc", "grpc": "google.golang.org/grpc",
	"credentials": "google.golang.org/grpc/credentials", "prometheus": "github.com/prometheus/client_golang/prometheus",
}

// file makes a file of a program: of a block that begins with a package clause, itself; of declarations, those; of
// anything else, a function that has a context, a coordinator, a client, a pool and a key.
func (b goBlock) file() string {
	if b.isProgram() {
		return b.text
	}
	body := fmt.Sprintf("//line %s:%d\n%s\n", b.page, b.line, b.text)
	if !regexp.MustCompile(`^(func|type) `).MatchString(b.text) {
		body = "func _(ctx context.Context, c *coordinator.Coordinator, rdb *redis.Client, pool *pgxpool.Pool, key coordinator.Key) error {\n{\n" + body + "}\nreturn nil\n}\n"
	}
	imports := ""
	for _, name := range slices.Sorted(maps.Keys(blockImports)) {
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(body) {
			imports += fmt.Sprintf("import %q\n", blockImports[name])
		}
	}
	return "package main\n\n" + imports + "\n" + body
}

func (b goBlock) isProgram() bool { return strings.HasPrefix(b.text, "package ") }

// vet compiles blocks as one program and looks for what go vet knows.
func vet(dir string, blocks ...goBlock) error {
	sources := []string{}
	for _, b := range blocks {
		sources = append(sources, b.file())
	}
	if !blocks[0].isProgram() {
		sources = append(sources, "package main\n\nfunc main() {}\n")
	}
	args := []string{"vet", "-unreachable=false"}
	if raceDetector() { // then what the blocks import is built with it already
		args = append(args, "-race")
	}
	for i, text := range sources {
		name := filepath.Join(dir, fmt.Sprintf("block%d.go", i))
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
		args = append(args, name)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// raceDetector says whether this test was built with it.
func raceDetector() bool {
	built, _ := debug.ReadBuildInfo()
	return built != nil && slices.Contains(built.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

func TestDocsBlocksCompile(t *testing.T) {
	var short []goBlock
	programs := 0
	for _, b := range goBlocks(t) {
		if !b.isProgram() {
			short = append(short, b)
			continue
		}
		programs++
		if err := vet(t.TempDir(), b); err != nil {
			t.Errorf("%s:%d: %v", b.page, b.line, err)
		}
	}
	if programs == 0 || len(short) == 0 {
		t.Fatalf("%d programs and %d shorter blocks; the README has a program, and the other pages have shorter blocks", programs, len(short))
	}
	if err := vet(t.TempDir(), short...); err != nil {
		t.Error(err)
	}
}

func TestDocsBlocksThatDoNotCompileAreFound(t *testing.T) {
	for _, text := range []string{
		"lease, err := c.Claim(ctx, key)\n", // not used
		"fmt.Println(coordinator.ErrNoSuch)\n",
	} {
		if err := vet(t.TempDir(), goBlock{"docs/none.md", 7, text}); err == nil || !strings.Contains(err.Error(), "none.md:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
