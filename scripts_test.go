package coordinator

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/onceward/coordinator/internal/protocol"
	"github.com/onceward/coordinator/internal/redistest"
	"github.com/onceward/coordinator/scripts"
)

// The contract above each script: which KEYS and ARGV it takes, and the words that a reader looks for.

var (
	declared = regexp.MustCompile(`(?m)^-- (KEYS|ARGV)\[(\d+)(…?)\]`)
	used     = regexp.MustCompile(`\b(KEYS|ARGV)\[(\d+)\]`)
	spread_  = regexp.MustCompile(`unpack\(ARGV, (\d+)\)|table\.remove\((KEYS|ARGV), 1\)`)
)

// contract compares what a script's header declares with what its code uses.
func contract(text string) error {
	header, code, _ := strings.Cut(text, "\nlocal ")
	for _, word := range []string{"-- Purpose: ", "-- Replies: ", "-- Moves: ", "-- Repeating: "} {
		if !strings.Contains("\n"+header, "\n"+word) {
			return fmt.Errorf("the header has no line %q", word)
		}
	}
	says, does := map[string]bool{}, map[string]bool{}
	open := map[string]bool{}
	for _, m := range declared.FindAllStringSubmatch(header, -1) {
		says[m[1]+m[2]] = true
		if m[3] != "" {
			open[m[1]+m[2]] = true
		}
	}
	for _, m := range used.FindAllStringSubmatch(code, -1) {
		does[m[1]+m[2]] = true
	}
	for _, m := range spread_.FindAllStringSubmatch(code, -1) {
		if m[1] != "" {
			does["ARGV"+m[1]] = true
		} else {
			does[m[2]+"2"] = true
		}
	}
	for name := range says {
		if !does[name] {
			return fmt.Errorf("%s is declared but not used", name)
		}
	}
	for name := range does {
		if !says[name] {
			return fmt.Errorf("%s is used but not declared", name)
		}
	}
	for _, list := range []string{"KEYS", "ARGV"} {
		for i := 2; i <= 20; i++ {
			if says[list+strconv.Itoa(i)] && !says[list+strconv.Itoa(i-1)] {
				return fmt.Errorf("%s has a gap before %d", list, i)
			}
		}
	}
	return nil
}

func verbFiles(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("scripts/*.lua")
	if err != nil || len(paths) < 13 {
		t.Fatalf("found %d scripts: %v", len(paths), err)
	}
	files := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if name := strings.TrimSuffix(filepath.Base(path), ".lua"); name != "common" {
			files[name] = string(text)
		}
	}
	return files
}

func TestScriptContracts(t *testing.T) {
	for name, text := range verbFiles(t) {
		if err := contract(text); err != nil {
			t.Errorf("scripts/%s.lua: %v", name, err)
		}
	}
}

func TestContractCheckerFindsWrongHeaders(t *testing.T) {
	good := "-- Purpose: p\n-- KEYS[1]  k\n-- ARGV[1]  a\n-- ARGV[2…] more\n-- Replies: r\n-- Moves: m\n-- Repeating: s\n" +
		"local x = redis.call('SET', KEYS[1], ARGV[1], unpack(ARGV, 2))\n"
	if err := contract(good); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for what, bad := range map[string]string{
		"declared, not used": strings.Replace(good, ", ARGV[1],", ",", 1),
		"used, not declared": strings.Replace(good, "KEYS[1],", "KEYS[1], KEYS[2],", 1),
		"rest not declared":  strings.Replace(good, "-- ARGV[2…] more\n", "", 1),
		"a gap":              strings.NewReplacer("ARGV[1]", "ARGV[3]").Replace(good),
		"no repeating":       strings.Replace(good, "-- Repeating: s\n", "", 1),
		"no purpose":         strings.Replace(good, "Purpose", "Porpoise", 1),
	} {
		if contract(bad) == nil {
			t.Errorf("%s: not found", what)
		}
	}
}

// pinned are the scripts' hashes. A change here must be meant: servers then cache another script, and a
// process of the version before runs the old one beside it.
var pinned = map[string]string{
	"claim":      "e8981f98e78f5f27b7390fa395885498ebb3410b",
	"renew":      "949a930c99dcfebb7a5feaa5392304b9938bf387",
	"checkpoint": "cd42b6012b63ccc01963c207f7fd2d69e91328a0",
	"complete":   "ec497662ebe3ad5d8fc90a3ccf1f4e4484b640fb",
	"release":    "179ab9bd6cab6832e5d4178e16a88d189d2fe85b",
	"giveback":   "0a3f174a86d768ed68e3c7c1c560d434f64e89f6",
	"expire":     "1b418d02435aa120e80438f31dd03815d2cd377c",
	"resolve":    "c73b2e5fe7b4f5d384779b78efe3b23e45649939",
	"mark":       "01053be4b1335d75231966ae5ae5a08a77986666",
	"confirm":    "fffa9c3945a76be9343f2484b0c55d953ae97c85",
	"inspect":    "95fc4165cb4b3e9ab014cd499f4871b527919734",
	"fence_do":   "7605fa3bde2eb699fea97d35134fb89005e3cca8",
	"fence_eval": "b8bd303de5b6f30fee413da9e0e0354709fe9230",
}

func TestPinnedHashes(t *testing.T) {
	all := append(scripts.All(), scripts.FenceEval("return 1"))
	for _, s := range all {
		if pinned[s.Verb] != s.SHA {
			t.Errorf("%q: %q,", s.Verb, s.SHA)
		}
	}
	if len(pinned) != len(all) {
		t.Errorf("%d hashes are pinned, there are %d scripts", len(pinned), len(all))
	}
}

func TestReplyCodesAreTheSameInLua(t *testing.T) {
	want := map[string]protocol.Code{
		"OK": protocol.OK, "OVER": protocol.Over, "MISMATCH": protocol.Mismatch, "IN_PROGRESS": protocol.InProgress, "FINISHED": protocol.Finished,
		"UNCERTAIN": protocol.Uncertain, "LOST": protocol.Lost, "STALE": protocol.Stale, "ABSENT": protocol.Absent, "CORRUPT": protocol.Corrupt,
		"MOVED_ON": protocol.MovedOn, "RESTORED": protocol.Restored, "KEY_EXPIRED": protocol.KeyExpired, "AHEAD": protocol.Ahead, "SPENT": protocol.Spent, "BLOCKED": protocol.Blocked, "FAILED": protocol.Failed,
	}
	if len(want) != int(protocol.End) {
		t.Errorf("%d codes here, %d in internal/protocol", len(want), protocol.End)
	}
	found := map[string]protocol.Code{}
	for _, line := range regexp.MustCompile(`(?m)^local ([A-Z_, ]+) = ([0-9, ]+)$`).FindAllStringSubmatch(scripts.New("", "").Text, -1) {
		names, numbers := strings.Split(line[1], ", "), strings.Split(line[2], ", ")
		for i, name := range names {
			n, err := strconv.Atoi(numbers[i])
			if err != nil {
				t.Fatal(err)
			}
			found[name] = protocol.Code(n)
		}
	}
	if !maps.Equal(found, want) {
		t.Errorf("common.lua has %v", found)
	}
}

func TestScriptsUseNothingThatOnlySomeServersHave(t *testing.T) {
	forbidden := regexp.MustCompile(`#!|cmsgpack|struct\.|bit\.|cjson|'WAIT'|HPEXPIRE|tostring|%s.*%c|math\.random|os\.`)
	// Arithmetic on a padded number's text: miniredis would take it for octal.
	octal := regexp.MustCompile(`\bsub\([^()]*\) *[-+*/%]|[-+*/%] *sub\(`)
	for name, text := range verbFiles(t) {
		for n, line := range strings.Split(text, "\n") {
			if line, _, _ := strings.Cut(line, "--"); forbidden.MatchString(line) || octal.MatchString(line) {
				t.Errorf("scripts/%s.lua:%d: %s", name, n+1, line)
			}
		}
	}
}

func TestLuacheck(t *testing.T) {
	path, err := exec.LookPath("luacheck")
	if err != nil {
		if os.Getenv(redistest.EnvRequire) == "1" {
			t.Fatal("luacheck is missing: apt-get install lua-check")
		}
		t.Skip("luacheck is missing: apt-get install lua-check")
	}
	dir := t.TempDir()
	for name, text := range verbFiles(t) {
		if err := os.WriteFile(filepath.Join(dir, name+".lua"), []byte(scripts.New(name, text).Text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(path, "--no-color", "--std", "lua51", "--globals", "redis", "KEYS", "ARGV", "--no-max-line-length", dir).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLoad(t *testing.T) {
	onServers(t, func(t *testing.T, rdb redis.UniversalClient) {
		c := open(t, rdb)
		if err := c.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, s := range scripts.All() {
			if there, err := rdb.ScriptExists(t.Context(), s.SHA).Result(); err != nil || !there[0] {
				t.Errorf("%s is not loaded (%v)", s.Verb, err)
			}
		}
	})
}

func TestLoadPutsScriptsOnEveryMasterThatIsUp(t *testing.T) {
	onCluster(t, func(t *testing.T, nodes *redistest.Cluster, rdb *redis.ClusterClient) {
		if err := rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			return node.ScriptFlush(ctx).Err()
		}); err != nil {
			t.Fatal(err)
		}
		if err := open(t, rdb).Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen := make(chan string, 8)
		if err := rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
			for _, s := range scripts.All() {
				if there := node.ScriptExists(ctx, s.SHA).Val(); len(there) != 1 || !there[0] {
					t.Errorf("%s lacks %s", node.Options().Addr, s.Verb)
				}
			}
			seen <- node.Options().Addr
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 3 {
			t.Errorf("saw %d masters", len(seen))
		}
	})
}

// withInfo is a miniredis that says to be of some version.
func withInfo(t *testing.T, version string) (*miniredis.Miniredis, *redis.Client) {
	m := miniredis.RunT(t)
	m.Server().SetPreHook(func(c *server.Peer, cmd string, args ...string) bool {
		if !slices.Contains([]string{"INFO", "info"}, cmd) {
			return false
		}
		c.WriteBulk("# Server\r\nredis_version:" + version + "\r\nredis_mode:standalone\r\n")
		return true
	})
	rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = rdb.Close() })
	return m, rdb
}

func TestServerThatIsTooOld(t *testing.T) {
	for version, ok := range map[string]bool{"6.2.14": false, "5.0.3": false, "7.0.0": true, "7.2.4": true, "8.0.1": true, "": true} {
		t.Run(version, func(t *testing.T) {
			m, rdb := withInfo(t, version)
			c := open(t, rdb)
			_, err := c.Claim(t.Context(), newKey(t))
			loadErr := c.Load(t.Context())
			if ok {
				if err != nil || loadErr != nil {
					t.Errorf("claim: %v, load: %v", err, loadErr)
				}
				return
			}
			for _, err := range []error{err, loadErr} {
				wantError(t, err, ErrUnavailable, version, "7.0")
			}
			if keys := m.Keys(); len(keys) > 0 {
				t.Errorf("something was written: %v", keys)
			}
		})
	}
}
