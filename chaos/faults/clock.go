package faults

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/onceward/coordinator/internal/redistest"
)

//go:embed shim/shim.c
var shim []byte

// Clock moves the wall clocks of the servers it was started with, each by itself, and cuts them off from each other:
// by a library that is compiled on the spot and loaded into them.
type Clock struct {
	dir     string
	library string

	mu    sync.Mutex
	files int
	nodes map[*redistest.Server]*control
}

// control is what a server has mapped; the same in shim.c.
type control struct {
	offset atomic.Int64
	cut    atomic.Uint32
	loaded atomic.Uint32
}

// What a server may be cut off from.
const (
	cutBus         = 1 // the other nodes of the cluster, in both directions
	cutReplication = 2 // its own master
)

// NewClock compiles the library with the C compiler that CC names, or else cc. Without one the error is
// [ErrUnsupported].
func NewClock() (_ *Clock, err error) {
	name := os.Getenv("CC")
	if name == "" {
		name = "cc"
	}
	cc, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%w: no C compiler for the shim of the clock (apt-get install gcc, or set CC): %w", ErrUnsupported, err)
	}
	dir, err := os.MkdirTemp("", "faults-")
	if err != nil {
		return nil, fmt.Errorf("faults: directory of the clock: %w", err)
	}
	c := &Clock{dir: dir, library: filepath.Join(dir, "shim.so"), nodes: map[*redistest.Server]*control{}}
	source := filepath.Join(dir, "shim.c")
	if err := os.WriteFile(source, shim, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("faults: source of the shim: %w", err), c.Close())
	}
	if out, err := exec.Command(cc, "-O2", "-shared", "-fPIC", "-o", c.library, source, "-ldl").CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: compile the shim of the clock: %w\n%s", ErrUnsupported, err, out), c.Close())
	}
	return c, nil
}

// Close removes the library. The servers have to have been stopped before.
func (c *Clock) Close() error { return os.RemoveAll(c.dir) }

// Offset returns how far the server's clock is ahead.
func (c *Clock) Offset(s *redistest.Server) time.Duration {
	if n := c.node(s); n != nil {
		return time.Duration(n.offset.Load())
	}
	return 0
}

// Set puts the server's clock ahead by d, or back if d is negative; 0 makes it right again.
func (c *Clock) Set(s *redistest.Server, d time.Duration) {
	if n := c.node(s); n != nil {
		n.offset.Store(int64(d))
	}
}

func (c *Clock) cut(s *redistest.Server, from uint32) {
	if n := c.node(s); n != nil {
		n.cut.Store(from)
	}
}

func (c *Clock) node(s *redistest.Server) *control {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[s]
}

// controls tells whether the clock was given to that server.
func (c *Clock) controls(s *redistest.Server) bool { return c != nil && c.node(s) != nil }

// control maps a new file.
func (c *Clock) control() (*control, string, error) {
	c.mu.Lock()
	c.files++
	name := filepath.Join(c.dir, fmt.Sprintf("control-%d", c.files))
	c.mu.Unlock()
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return nil, "", err
	}
	defer file.Close()
	const size = int(unsafe.Sizeof(control{}))
	if err := file.Truncate(int64(size)); err != nil {
		return nil, "", err
	}
	mapped, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, "", err
	}
	return (*control)(unsafe.Pointer(&mapped[0])), name, nil // mapped for as long as the process lives
}

// StartCluster starts three masters with a replica each. The clock may be nil.
func StartCluster(ctx context.Context, clock *Clock, extra ...string) (*redistest.Cluster, error) {
	const masters, replicas = 3, 1
	spec := redistest.Spec{Masters: masters, Replicas: replicas, Extra: extra}
	controls := make([]*control, masters*(1+replicas))
	if clock != nil {
		names := make([]string, len(controls))
		for i := range controls {
			var err error
			if controls[i], names[i], err = clock.control(); err != nil {
				return nil, fmt.Errorf("faults: a clock's file: %w", err)
			}
		}
		spec.Env = func(node int) []string {
			return []string{
				"LD_PRELOAD=" + clock.library,
				"FAULTS_CONTROL=" + names[node],
				fmt.Sprintf("FAULTS_BUS_FROM=%d", redistest.FirstBusPort),
				fmt.Sprintf("FAULTS_BUS_TO=%d", redistest.LastBusPort+1),
			}
		}
	}
	cluster, err := spec.Start(ctx)
	if err != nil || clock == nil {
		return cluster, err
	}
	for i, s := range cluster.Nodes() {
		if controls[i].loaded.Load() == 0 {
			cluster.Stop()
			return nil, fmt.Errorf("%w: the server did not load %s: is it linked statically?", ErrUnsupported, clock.library)
		}
		clock.mu.Lock()
		clock.nodes[s] = controls[i]
		clock.mu.Unlock()
	}
	return cluster, nil
}
