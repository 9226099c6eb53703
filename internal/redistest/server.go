package redistest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is one redis-server process, or a sequence of them: it keeps its
// port, directory and configuration across Kill and Restart.
type Server struct {
	bin      string
	port     int
	kept     io.Closer // keeps the port for this server while it is dead
	dir      string
	env      []string
	sentinel bool
	admin    *redis.Client

	mu     sync.Mutex
	proc   *process // the last one started, which may have ended
	paused bool
}

// Start starts a standalone server and waits until it answers. The extra
// arguments are pairs of configuration names and values, such as "maxmemory",
// "10mb". ctx bounds the start only; the server lives until Stop.
func Start(ctx context.Context, extra ...string) (*Server, error) {
	c := &config{}
	dataConfig(c)
	return start(ctx, c, false, extra)
}

// errPortTaken says that somebody else has bound the port first.
var errPortTaken = errors.New("port taken")

func start(ctx context.Context, c *config, sentinel bool, extra []string) (*Server, error) {
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	if err := c.addAll(extra); err != nil {
		return nil, err
	}
	for tries := 10; ; tries-- {
		s, err := startOnce(ctx, bin, c, sentinel, password(extra))
		if errors.Is(err, errPortTaken) && tries > 1 {
			continue // lost a race for the port; draw another one
		}
		return s, err
	}
}

// password finds the one under which this package has to ask the server.
func password(extra []string) string {
	for i := 0; i+1 < len(extra); i += 2 {
		if extra[i] == "requirepass" {
			return extra[i+1]
		}
	}
	return ""
}

func startOnce(ctx context.Context, bin string, c *config, sentinel bool, password string) (*Server, error) {
	port, kept, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "redistest-")
	if err != nil {
		_ = kept.Close()
		return nil, fmt.Errorf("redistest: directory for a server: %w", err)
	}
	s := &Server{bin: bin, port: port, kept: kept, dir: dir, env: c.env, sentinel: sentinel}
	s.admin = redis.NewClient(&redis.Options{
		Addr:     s.Addr(),
		Password: password,
		// The plainest client there is: what it asks must neither depend
		// on optional features nor take long against a server that is gone.
		Protocol:        2,
		DisableIdentity: true,
		MaxRetries:      1,
		DialerRetries:   1,
		PoolSize:        3,
		DialTimeout:     time.Second,
		ReadTimeout:     2 * time.Second,
		WriteTimeout:    2 * time.Second,
	})
	conf := fmt.Sprintf("bind %s\nport %d\ndir %q\n", host, port, dir) + c.b.String()
	if err := os.WriteFile(s.confPath(), []byte(conf), 0o600); err != nil {
		s.Stop()
		return nil, fmt.Errorf("redistest: write configuration: %w", err)
	}
	if err := s.Restart(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) confPath() string { return filepath.Join(s.dir, "redis.conf") }
func (s *Server) logPath() string  { return filepath.Join(s.dir, "redis.log") }

// Addr returns the address of the server as host:port.
func (s *Server) Addr() string { return hostPort(s.port) }

// Port returns the port of the server, the same after a restart.
func (s *Server) Port() int { return s.port }

// PID returns the process id of the running server, or 0 if it is dead.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.proc.os.Pid
}

// Client returns a new client of this server. All options but the address are
// the caller's, nil for go-redis' defaults; so is closing it.
func (s *Server) Client(opts *redis.Options) *redis.Client {
	var o redis.Options
	if opts != nil {
		o = *opts
	}
	o.Addr = s.Addr()
	return redis.NewClient(&o)
}

// Restart starts the server again on its port, with the configuration and
// whatever files it had. A server which still runs is killed first. It returns
// when the server answers. Without persistence ("appendonly", "yes") it comes
// back empty, as it would in production.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.kill(); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("redistest: open log: %w", err)
	}
	defer log.Close() // the child has its own copy
	args := []string{s.confPath()}
	if s.sentinel {
		args = append(args, "--sentinel")
	}
	cmd := exec.Command(s.bin, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), s.env...)
	// No logfile is configured, so the log goes to stdout, and lands in the
	// same place as the complaints about a bad configuration do.
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := spawn(cmd)
	if err != nil {
		return err
	}
	s.proc = proc
	return s.ready(ctx, proc)
}

// ready waits until it is this very process which answers on the port.
func (s *Server) ready(ctx context.Context, proc *process) error {
	return until(ctx, "a redis-server on "+s.Addr(), func(ctx context.Context) error {
		if !proc.running() {
			if strings.Contains(s.Log(), "Address already in use") {
				return fmt.Errorf("%w: %w", errGiveUp, errPortTaken)
			}
			return fmt.Errorf("%w: it ended (%v); its log ends with:\n%s", errGiveUp, proc.err, s.Log())
		}
		// Dial by hand first: go-redis logs every dial that fails.
		conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
		if err != nil {
			return err
		}
		_ = conn.Close()
		if err := s.admin.Ping(ctx).Err(); err != nil {
			return err
		}
		// The port may have been lost to another redis-server, and that
		// one answers while ours is about to notice.
		info, err := s.info(ctx, "server")
		if err != nil {
			return err
		}
		if want := fmt.Sprint(proc.os.Pid); info["process_id"] != want {
			return fmt.Errorf("process %s answers instead of %s", info["process_id"], want)
		}
		return nil
	})
}

// Kill ends the server with SIGKILL, paused or not, and reaps it: no farewell
// to clients, replicas or files. Killing a dead server does nothing.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kill()
}

func (s *Server) kill() error {
	if s.proc == nil {
		return nil
	}
	s.paused = false
	return s.proc.kill()
}

// Pause halts the server with SIGSTOP, which to everybody else looks like a
// network partition or a very long pause: connections stay open, and nothing
// answers. It returns when the server has come to a halt.
func (s *Server) Pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signal(sigStop); err != nil {
		return err
	}
	s.paused = true
	pid := s.proc.os.Pid
	return until(context.Background(), fmt.Sprintf("process %d to halt", pid), func(context.Context) error {
		halted, err := stopped(pid)
		if err != nil {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		if !halted {
			return errors.New("still runs")
		}
		return nil
	})
}

// Resume lets a paused server run on. It still believes what it believed when
// it was paused; that is the point of it.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.signal(sigCont); err != nil {
		return err
	}
	s.paused = false
	return nil
}

func (s *Server) signal(sig os.Signal) error {
	if !s.running() {
		return fmt.Errorf("redistest: signal %v to %s: the server is dead", sig, s.Addr())
	}
	if err := s.proc.os.Signal(sig); err != nil {
		return fmt.Errorf("redistest: signal %v to %s: %w", sig, s.Addr(), err)
	}
	return nil
}

// Stop ends the server for good and removes its directory. It is not asked
// nicely, because nothing it could still write would be kept. It returns no
// error, being meant for defer: there is nothing a caller could do about one.
func (s *Server) Stop() {
	_ = s.Kill()
	_ = s.admin.Close()
	_ = s.kept.Close()
	_ = os.RemoveAll(s.dir)
}

// Log returns the tail of the server's log, to be shown when a test fails.
func (s *Server) Log() string {
	const tail = 4 << 10
	log, err := os.ReadFile(s.logPath())
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(log[max(0, len(log)-tail):])
}

// running is to be called with mu held.
func (s *Server) running() bool { return s.proc != nil && s.proc.running() }

// responsive tells whether it makes sense to ask the server anything.
func (s *Server) responsive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running() && !s.paused
}
