package redistest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestChildrenDieWithTheirParent runs this test binary again, lets that start
// a server, and kills it without warning.
func TestChildrenDieWithTheirParent(t *testing.T) {
	if os.Getenv("REDISTEST_PARENT") == "1" {
		s, err := Start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("pid", s.PID())
		fmt.Println("dir", s.dir)
		select {}
	}
	t.Parallel()
	Need(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildrenDieWithTheirParent$")
	cmd.Env = append(os.Environ(), "REDISTEST_PARENT=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for lines := bufio.NewScanner(out); len(said) < 2 && lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		said[name] = value
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	pid, err := strconv.Atoi(said["pid"])
	if err != nil {
		t.Fatalf("the child said %v", said)
	}
	defer os.RemoveAll(said["dir"])
	err = until(ctx, "the server to die", func(context.Context) error {
		if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
			return fmt.Errorf("%d is alive", pid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// zombie tells whether pid is dead and only waits to be reaped, for which in
// a container there may be nobody.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z")
}
